"""Data of the page that compares two methods in the browser: one file per method, so that it grows linearly."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..benchmark.results.edit_scores import ScoredMethod, ranked_by_scores
from ..benchmark.results.layout import slug
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.edit_score_estimates import scores_over_tasks
from .entries import Section, TaskKey
from .paths import task_slug
from .standings import Standings

MEASURE = "success"
"""The measure of the values of single cases."""
DRAW_STEPS = 65535
"""Number of steps between 0 and 1 that resampled scores are rounded to."""

CaseList = Sequence[tuple[str, str, str]]
"""Cases of a task: id, path of the page, and the edit in words."""


def script(name: str, value: Any) -> str:
    """Return a script that hands a value to the page under a name.

    A page from disk may load scripts, but not JSON. The text is plain ASCII, and therefore nothing in it ends the
    literal or the script.
    """
    return f"knbench.give({json.dumps(name)},{json.dumps(value, separators=(',', ':'))});\n"


def method_path(section: str, method: str) -> str:
    """Return the path of the data of a method in a section."""
    return f"data/{section}/methods/{slug(method)}.js"


@dataclass(frozen=True, eq=False)
class ComparedTable:
    """The edit scores that two methods of a section are compared by: over tasks, or on one task.

    Attributes:
        name: identifier in the data.
        scored: by method, its scores; ``ranks`` likewise, in words; ``draws`` likewise, on resampled cases.
    """

    name: str
    title: str
    scored: Mapping[str, ScoredMethod]
    ranks: Mapping[str, str]
    draws: Mapping[str, np.ndarray]


def compared_tables(section: Section, overviews: Sequence[Standings]) -> list[ComparedTable]:
    """Return the tables of single tasks, which methods without the other tasks have, too, and those over tasks."""
    found = []
    for task in section.tasks() if not section.has_one_task else ():
        entries = {method: entry for method, entry in section.entries[task].items() if not entry.deviation}
        scores = scores_over_tasks([{m: entry.case_values for m, entry in entries.items()}]) if entries else {}
        scored = {row.method: row for row in ranked_by_scores(scores, ranked=False)}
        draws = {method: one.drawn.value for method, one in scores.items()}
        found.append(ComparedTable(task_slug(task), section.task_card(task).title, scored, {}, draws))
    for table in overviews:
        scored = {row.method: row.scored for row in table.rows if row.scored is not None and row.method in table.draws}
        ranks = {row.method: row.rank or row.unranked for row in table.rows}
        found.append(ComparedTable(table.name, table.title, scored, ranks, table.draws))
    return found


def section_data(
    section: Section, tables: Sequence[ComparedTable], cases: Mapping[TaskKey, CaseList]
) -> dict[str, Any]:
    """Return what the methods of a section share: tables, tasks, and the cases of each task."""
    return {
        "tables": [[table.name, table.title, bool(table.ranks)] for table in tables],
        "tasks": [
            {
                "name": task[0],
                "title": section.task_card(task).title,
                "cases": [[path, words] for _, path, words in cases.get(task, ())],
            }
            for task in section.tasks()
        ],
        "criteria": {criterion.name: criterion.title for criterion in CRITERIA.values()},
    }


def method_data(
    section: Section, method: str, tables: Sequence[ComparedTable], cases: Mapping[TaskKey, CaseList]
) -> dict[str, Any]:
    """Return the numbers of one method.

    Returns:
        ``scores``: by table, the edit score, gain and preservation with their intervals. ``ranks``: by table over
        tasks, the interval of ranks in words, or why there is none. ``draws``: by table, the edit
        score on resampled cases as little-endian 16-bit steps in base64; equal cases are drawn for all methods.
        ``values``: by task and criterion, the value of each case of :func:`section_data` by the measure success.
    """
    scores, draws, ranks = {}, {}, {}
    for found in tables:
        s = found.scored.get(method)
        if s is not None:
            ranks[found.name] = found.ranks.get(method, "")
            scores[found.name] = [
                _rounded(v)
                for v in (s.value, s.low, s.high, s.gain, s.gain_low, s.gain_high,
                          s.preservation, s.preservation_low, s.preservation_high)
            ]  # fmt: skip
            steps = np.clip(np.rint(found.draws[method] * DRAW_STEPS), 0, DRAW_STEPS).astype("<u2")
            draws[found.name] = base64.b64encode(steps.tobytes()).decode()
    values = {}
    for task in section.tasks():
        entry = section.entries[task].get(method)
        if entry is not None:
            ids = [case_id for case_id, _, _ in cases.get(task, ())]
            by_criterion = entry.values.get(MEASURE, {})
            values[task[0]] = {c: [_rounded(found.get(i)) for i in ids] for c, found in by_criterion.items()}
    return {"scores": scores, "ranks": ranks, "draws": draws, "values": values}


def _rounded(value: float | None) -> float | int | None:
    if value is None:
        return None
    rounded = round(value, 4)
    return int(rounded) if rounded == int(rounded) else rounded
