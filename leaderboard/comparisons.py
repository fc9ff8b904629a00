"""Data of the page that compares two methods in the browser: one file per method, so that it grows linearly."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..benchmark.results.layout import slug
from ..benchmark.scoring.criteria import CRITERIA
from .entries import Section, TaskKey
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


def section_data(section: Section, overviews: Sequence[Standings], cases: Mapping[TaskKey, CaseList]) -> dict[str, Any]:
    """Return what the methods of a section share: tables, tasks, and the cases of each task."""
    return {
        "tables": [[found.name, found.title] for found in overviews],
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
    section: Section, method: str, overviews: Sequence[Standings], cases: Mapping[TaskKey, CaseList]
) -> dict[str, Any]:
    """Return the numbers of one method.

    Returns:
        ``scores``: by table, the edit score, gain and preservation with their intervals. ``ranks``: by table, the
        interval of ranks in words, or why there is none. ``draws``: by table, the edit
        score on resampled cases as little-endian 16-bit steps in base64; equal cases are drawn for all methods.
        ``values``: by task and criterion, the value of each case of :func:`section_data` by the measure success.
    """
    scores, draws, ranks = {}, {}, {}
    for found in overviews:
        row = next((row for row in found.rows if row.method == method), None)
        if row is not None and row.scored is not None and method in found.draws:
            s = row.scored
            ranks[found.name] = row.rank or row.unranked
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
