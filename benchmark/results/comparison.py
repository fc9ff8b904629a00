"""Methods side by side on the same cases: paired differences, McNemar tables, rank intervals. Needs no model.

Only results that were taken in the same way are compared; everything comes from their records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from ..core.errors import KnbenchError
from ..scoring.criteria import CRITERIA, MEASURES
from ..scoring.effects import adjusted
from ..scoring.intervals import (
    Comparison,
    Rank,
    compare,
    mean_over_tasks,
    percentiles,
    rank_intervals,
    resampled_scores,
)
from ..scoring.summary import COMPOSITES, ROME_SCORE, Table, case_table
from .documents import comparable
from .runs import Run

Row = Mapping[str, Any]
Values = Mapping[str, Mapping[str, float]]
"""What one method did on one task, by one measure: by criterion, each case's number."""


@dataclass(frozen=True, eq=False)
class TaskComparison:
    """Results of several editors on one task, taken in the same way.

    Attributes:
        task: the task's name.
        runs: by editor.
        records: by editor, then by case id; the same cases for all.
    """

    task: str
    runs: Mapping[str, Run]
    records: Mapping[str, Mapping[str, Row]]

    def values(self, editor: str, criterion: str, measure: str) -> dict[str, float]:
        """Return an editor's number for each case, the mean over the case's probes."""
        return case_means(self.records[editor], self.tables(measure)[editor].get((criterion, measure), []))

    @cache  # noqa: B019 - a group lives as long as one command
    def tables(self, measure: str) -> Mapping[str, Table]:
        """Return every editor's values by a measure."""
        return {editor: case_table(list(records.values()), [measure]) for editor, records in self.records.items()}


def case_means(case_ids: Iterable[str], values: Iterable[Sequence[float]]) -> dict[str, float]:
    """Return each case's mean over its probes, of the cases that have any."""
    return {case_id: sum(found) / len(found) for case_id, found in zip(case_ids, values, strict=False) if found}


def group_by_task(runs: Sequence[Run]) -> list[TaskComparison]:
    """Sort results by task.

    Raises:
        KnbenchError: two results of a task were taken in different ways, or are of the same editor.
    """
    by_task: dict[str, dict[str, Run]] = {}
    for run in runs:
        task, editor = run.result["task"]["name"], run.result["editor"]["name"]
        members = by_task.setdefault(task, {})
        if editor in members:
            raise KnbenchError(
                f"two results of editor '{editor}' on task '{task}': {members[editor].folder}, {run.folder}"
            )
        for other in members.values():
            differing = _differing(other.result, run.result)
            if differing:
                raise KnbenchError(
                    f"{other.folder} and {run.folder} were not taken in the same way ({differing}); "
                    "only like results can be compared"
                )
        members[editor] = run
    groups = []
    for task, members in by_task.items():
        records = {editor: {r["case_id"]: r for r in run.final_records()} for editor, run in members.items()}
        shared = set.intersection(*(set(cases) for cases in records.values()))
        kept = {editor: {i: r for i, r in cases.items() if i in shared} for editor, cases in records.items()}
        groups.append(TaskComparison(task, members, kept))
    return groups


def _differing(a: Row, b: Row) -> str:
    first, second = comparable(a), comparable(b)
    keys = [key for key in dict.fromkeys([*first, *second]) if first.get(key) != second.get(key)]
    return ", ".join(f"{key}: {first.get(key)} and {second.get(key)}" for key in keys)


KINDS = {"fact": "facts", "linguistic": "phenomena"}


def overall(groups: Sequence[TaskComparison], measure: str) -> list[dict[str, Any]]:
    """Return one row per kind of task, editor and criterion: the mean over all tasks that every editor was run on.

    Facts are resampled within their relations; of phenomena, whole paradigms are.
    """
    rows = []
    for kind in KINDS:
        members = [g for g in groups if next(iter(g.runs.values())).result["task"]["kind"] == kind]
        editors = [e for e in dict.fromkeys(e for g in members for e in g.runs) if all(e in g.runs for g in members)]
        for criterion in CRITERIA:
            for editor in editors:
                found = [list(group.values(editor, criterion, measure).values()) for group in members]
                tasks = [values for values in found if values]
                if tasks:
                    share = MEASURES[measure].share
                    estimate = mean_over_tasks(tasks, share=share, clusters=kind == "linguistic")
                    rows.append(
                        {
                            "kind": kind,
                            "editor": editor,
                            "criterion": criterion,
                            "measure": measure,
                            "value": estimate.value,
                            "low": estimate.low,
                            "high": estimate.high,
                            "tasks": len(tasks),
                            "cases": sum(map(len, tasks)),
                        }
                    )
    return rows


def compare_two(groups: Sequence[TaskComparison], a: str, b: str, measure: str) -> list[dict[str, Any]]:
    """Return one row per task and criterion: A's mean, B's, and the comparison case by case.

    ``p_adjusted`` is corrected for the number of rows by Benjamini and Hochberg.

    Raises:
        KnbenchError: there is no task that both were run on.
    """
    rows = []
    for group in groups:
        if not {a, b} <= set(group.runs):
            continue
        first, second = ({c: group.values(editor, c, measure) for c in CRITERIA} for editor in (a, b))
        rows += compare_values(group.task, first, second)
    if not rows:
        raise KnbenchError(f"'{a}' and '{b}' have no task in common with a number for measure '{measure}'")
    return corrected(rows)


def compare_values(task: str, first: Values, second: Values) -> list[dict[str, Any]]:
    """Return one row per criterion that both have, over the cases that both have."""
    rows = []
    for criterion in CRITERIA:
        a, b = first.get(criterion, {}), second.get(criterion, {})
        shared = [case_id for case_id in a if case_id in b]
        if shared:
            x, y = [a[i] for i in shared], [b[i] for i in shared]
            rows.append(_row(task, criterion, x, y, compare(x, y)))
    return rows


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add ``p_adjusted`` to every row."""
    for row, p in zip(rows, adjusted([row["p"] for row in rows]), strict=True):
        row["p_adjusted"] = p
    return rows


def _row(task: str, criterion: str, x: Sequence[float], y: Sequence[float], found: Comparison) -> dict[str, Any]:
    return {
        "task": task,
        "criterion": criterion,
        "cases": len(x),
        "a": sum(x) / len(x),
        "b": sum(y) / len(y),
        "difference": found.difference.value,
        "low": found.difference.low,
        "high": found.difference.high,
        "p": found.p,
        "wins": found.wins,
        "losses": found.losses,
        "ties": found.ties,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "p_mcnemar": found.p_mcnemar,
    }


def case_by_case(groups: Sequence[TaskComparison], a: str, b: str, measure: str) -> list[dict[str, Any]]:
    """Return every case and criterion on which two editors differ."""
    rows = []
    for group in groups:
        if {a, b} <= set(group.runs):
            for criterion in CRITERIA:
                first, second = (group.values(editor, criterion, measure) for editor in (a, b))
                rows += [
                    {"task": group.task, "criterion": criterion, "case": i, "a": first[i], "b": second[i]}
                    for i in first
                    if i in second and first[i] != second[i]
                ]
    return rows


@dataclass(frozen=True)
class RankedMethod:
    """A method's score, its interval, and the places that it may have."""

    editor: str
    value: float
    low: float
    high: float
    best: int
    worst: int
    cases: int


def parts_of(score: str, present: Collection[str]) -> list[str]:
    """Return the criteria that a score is made of on tasks that have some criteria; none where they do not have it.

    A criterion by itself is a score, too.
    """
    if score not in COMPOSITES:
        return [score] if score in present else []
    parts = [criterion for criterion in COMPOSITES[score] if criterion in present]
    whole = set(ROME_SCORE) <= set(parts)
    return parts if whole and (score == "score" or not set(parts) <= set(ROME_SCORE)) else []


def places(tasks: Sequence[Mapping[str, Values]], score: str, *, ranked: bool = True) -> list[RankedMethod]:
    """Return methods from the best to the worst by a score over tasks, each task counting the same.

    Cases are drawn again within their tasks, so ranks are about these tasks and other cases of theirs.

    Args:
        tasks: of each task, the same editors' values.
        score: a criterion, ``score`` or ``extended_score``, by a measure of which more is better.
        ranked: whether ranks are wanted, which take the longest; all places are left open otherwise.
    """
    editors = sorted(tasks[0]) if tasks else []
    parts = parts_of(score, {c for task in tasks for values in task.values() for c, found in values.items() if found})
    arrays, columns = [], []
    for task in tasks:
        having = [p for p in parts if all(task[editor].get(p) for editor in editors)]
        shared = sorted(set.intersection(*(set(task[e][p]) for e in editors for p in having))) if having else []
        if shared:
            arrays.append(np.array([[[task[e][p][i] for p in having] for e in editors] for i in shared]))
            columns.append([parts.index(p) for p in having])
    if not arrays or {c for found in columns for c in found} != set(range(len(parts))):
        return []
    values, draws = resampled_scores(arrays, columns)
    cases = sum(map(len, arrays))
    ranks = rank_intervals(values, draws, cases) if ranked else [Rank(1, len(editors))] * len(editors)
    low, high = percentiles(draws)
    found = [
        RankedMethod(e, float(values[n]), float(low[n]), float(high[n]), ranks[n].best, ranks[n].worst, cases)
        for n, e in enumerate(editors)
    ]
    return sorted(found, key=lambda place: (-place.value, place.editor))


def ranking(group: TaskComparison, criterion: str, measure: str) -> list[dict[str, Any]]:
    """Return the editors of a task from the best to the worst, with the ranks that the data leave open.

    Args:
        group: results of a task.
        criterion: a criterion, ``score`` or ``extended_score``.
        measure: the measure, of which more must be better.
    """
    values = {e: {c: group.values(e, c, measure) for c in CRITERIA} for e in group.runs}
    return [asdict(place) for place in places([values], criterion)]
