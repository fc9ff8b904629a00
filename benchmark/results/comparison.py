"""Comparison of methods on the same cases: paired differences, McNemar tables and rank intervals. Needs no model.

Only results with the same settings are compared. All numbers are computed from the records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from ..core.documents import Result
from ..core.errors import KnbenchError
from ..core.records import Record
from ..core.schema import TaskKind
from ..scoring.criteria import CRITERIA, MEASURES
from ..scoring.edit_score import CaseValues, case_values
from ..scoring.effects import adjusted
from ..scoring.intervals import (
    Rank,
    compare,
    mean_over_tasks,
    percentiles,
    rank_intervals,
    resampled_scores,
)
from ..scoring.summary import COMPOSITES, ROME_SCORE, Table, case_table
from .documents import different_conditions
from .method_names import method_names
from .runs import Run

Values = Mapping[str, Mapping[str, float]]
"""Values of one method on one task by one measure: by criterion, the value of each case."""

KINDS = {"fact": "facts", "linguistic": "phenomena"}
"""Kinds of tasks with their names in tables."""

OF_TASK = ("task", "version", "content", "cases", "checkpoints")
"""Conditions that may differ between the tasks of one comparison."""


@dataclass(frozen=True, eq=False)
class TaskComparison:
    """Comparable results of several methods on one task.

    An editor is one method, or several if its results have several configurations; see :func:`method_names`.

    Attributes:
        task: name of the task.
        runs: by method.
        records: by method, then by case id; all methods have the same cases.
    """

    task: str
    runs: Mapping[str, Run]
    records: Mapping[str, Mapping[str, Record]]

    def values(self, editor: str, criterion: str, measure: str) -> dict[str, float]:
        """Return an editor's value for each case, the mean over the case's probes."""
        return case_means(self.records[editor], self.tables(measure)[editor].get((criterion, measure), []))

    @property
    def kind(self) -> TaskKind:
        """Kind of the task."""
        return next(iter(self.runs.values())).result.task.kind

    @cached_property
    def case_values(self) -> dict[str, CaseValues]:
        """Every editor's values that the edit score is computed from."""
        return {editor: case_values(list(records.values()), self.kind) for editor, records in self.records.items()}

    @cache  # noqa: B019 - an instance lives as long as one command
    def tables(self, measure: str) -> Mapping[str, Table]:
        """Return every editor's values by a measure."""
        return {editor: case_table(list(records.values()), [measure]) for editor, records in self.records.items()}


@dataclass(frozen=True)
class OverallRow:
    """An editor's mean over all tasks of a kind, for one criterion and measure, with its 95% interval."""

    kind: str
    editor: str
    criterion: str
    measure: str
    value: float
    low: float | None
    high: float | None
    tasks: int
    cases: int


@dataclass(frozen=True)
class PairedRow:
    """Editors A and B on the cases of one task, by one criterion; see :class:`~..scoring.intervals.Comparison`.

    Attributes:
        cases: number of cases that both have.
        a: mean of editor A.
        b: mean of editor B.
        difference: a - b with its 95% interval ``low`` to ``high``.
        p: p-value of the paired permutation test; ``p_adjusted`` is corrected for the number of rows.
    """

    task: str
    criterion: str
    cases: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    wins: int
    losses: int
    ties: int
    only_a: int | None
    only_b: int | None
    p_mcnemar: float | None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class CaseDifference:
    """One case and criterion on which editors A and B have different values."""

    task: str
    criterion: str
    case: str
    a: float
    b: float


@dataclass(frozen=True)
class RankedMethod:
    """A method's score with its 95% interval, and the ranks from ``best`` to ``worst`` that the data allow."""

    editor: str
    value: float
    low: float
    high: float
    best: int
    worst: int
    cases: int


def case_means(case_ids: Iterable[str], values: Iterable[Sequence[float]]) -> dict[str, float]:
    """Return the mean over probes of each case that has any."""
    return {case_id: sum(found) / len(found) for case_id, found in zip(case_ids, values, strict=False) if found}


def group_by_task(runs: Sequence[Run]) -> list[TaskComparison]:
    """Return results grouped by task.

    Raises:
        KnbenchError: two results were measured under different conditions, or have the same task and method.
    """
    by_task: dict[str, dict[str, Run]] = {}
    for run, editor in zip(runs, method_names([run.result for run in runs]), strict=True):
        task = run.result.task.name
        members = by_task.setdefault(task, {})
        if editor in members:
            raise KnbenchError(
                f"two results of editor '{editor}' on task '{task}': {members[editor].result_path}, {run.result_path}; "
                "pass only one of them"
            )
        for other in members.values():
            differences = _differences(other.result, run.result)
            if differences:
                raise KnbenchError(
                    f"{other.result_path} and {run.result_path} have different settings ({differences}) and cannot be "
                    "compared"
                )
        differences = _differences(runs[0].result, run.result, ignored=OF_TASK)
        if differences:
            raise KnbenchError(
                f"{runs[0].result_path} and {run.result_path} have different settings ({differences}); compare them "
                "separately"
            )
        members[editor] = run
    groups = []
    for task, members in by_task.items():
        records = {editor: {r.case_id: r for r in run.final_records()} for editor, run in members.items()}
        shared = set.intersection(*(set(cases) for cases in records.values()))
        kept = {editor: {i: r for i, r in cases.items() if i in shared} for editor, cases in records.items()}
        groups.append(TaskComparison(task, members, kept))
    return groups


def _differences(a: Result, b: Result, ignored: Collection[str] = ()) -> str:
    different = different_conditions(a, b)
    return ", ".join(f"{key}: {x} and {y}" for key, (x, y) in different.items() if key not in ignored)


def overall(groups: Sequence[TaskComparison], measure: str) -> list[OverallRow]:
    """Return one row per kind of task, method and criterion: the mean over the tasks of the kind.

    Methods that lack a task are left out, see :func:`incomplete_methods`.
    Facts are resampled within their relations. Phenomena are resampled as whole paradigms.
    """
    rows = []
    for kind in KINDS:
        members = [g for g in groups if g.kind == kind]
        editors = [e for e in dict.fromkeys(e for g in members for e in g.runs) if all(e in g.runs for g in members)]
        for criterion in CRITERIA:
            for editor in editors:
                values = [list(group.values(editor, criterion, measure).values()) for group in members]
                tasks = [found for found in values if found]
                if tasks:
                    share = MEASURES[measure].share
                    estimate = mean_over_tasks(tasks, share=share, clusters=kind == "linguistic")
                    rows.append(
                        OverallRow(
                            kind=kind,
                            editor=editor,
                            criterion=criterion,
                            measure=measure,
                            value=estimate.value,
                            low=estimate.low,
                            high=estimate.high,
                            tasks=len(tasks),
                            cases=sum(map(len, tasks)),
                        )
                    )
    return rows


def incomplete_methods(groups: Sequence[TaskComparison]) -> dict[str, tuple[int, int]]:
    """Return the methods that lack tasks, with the number of their tasks and of all tasks."""
    found = {name: sum(name in group.runs for group in groups) for group in groups for name in group.runs}
    return {name: (count, len(groups)) for name, count in found.items() if count < len(groups)}


def compare_two(groups: Sequence[TaskComparison], a: str, b: str, measure: str) -> list[PairedRow]:
    """Return one row per task and criterion that compares two editors case by case.

    Raises:
        KnbenchError: the editors have no task in common.
    """
    rows = []
    for group in groups:
        if {a, b} <= set(group.runs):
            first, second = ({c: group.values(editor, c, measure) for c in CRITERIA} for editor in (a, b))
            rows += compare_values(group.task, first, second)
    if not rows:
        raise KnbenchError(f"'{a}' and '{b}' have no task in common with a number for measure '{measure}'")
    return corrected(rows)


def compare_values(task: str, first: Values, second: Values) -> list[PairedRow]:
    """Return one row per criterion that both methods have, over the cases that both have."""
    rows = []
    for criterion in CRITERIA:
        a, b = first.get(criterion, {}), second.get(criterion, {})
        shared = [case_id for case_id in a if case_id in b]
        if shared:
            x, y = [a[i] for i in shared], [b[i] for i in shared]
            found = compare(x, y)
            rows.append(
                PairedRow(
                    task=task,
                    criterion=criterion,
                    cases=len(x),
                    a=sum(x) / len(x),
                    b=sum(y) / len(y),
                    difference=found.difference.value,
                    low=found.difference.low,
                    high=found.difference.high,
                    p=found.p,
                    wins=found.wins,
                    losses=found.losses,
                    ties=found.ties,
                    only_a=found.only_a,
                    only_b=found.only_b,
                    p_mcnemar=found.p_mcnemar,
                )
            )
    return rows


def corrected(rows: Sequence[PairedRow]) -> list[PairedRow]:
    """Return rows with ``p_adjusted``, corrected for their number by Benjamini and Hochberg."""
    return [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted([row.p for row in rows]), strict=True)]


def case_by_case(groups: Sequence[TaskComparison], a: str, b: str, measure: str) -> list[CaseDifference]:
    """Return every case and criterion on which two editors differ."""
    rows = []
    for group in groups:
        if {a, b} <= set(group.runs):
            for criterion in CRITERIA:
                first, second = (group.values(editor, criterion, measure) for editor in (a, b))
                rows += [
                    CaseDifference(group.task, criterion, i, first[i], second[i])
                    for i in first
                    if i in second and first[i] != second[i]
                ]
    return rows


def parts_of(score: str, present: Collection[str]) -> list[str]:
    """Return the criteria that a score consists of on tasks with the given criteria; empty if the score is undefined.

    A criterion by itself is a score, too.
    """
    if score not in COMPOSITES:
        return [score] if score in present else []
    parts = [criterion for criterion in COMPOSITES[score] if criterion in present]
    whole = set(ROME_SCORE) <= set(parts)
    return parts if whole and (score == "score" or not set(parts) <= set(ROME_SCORE)) else []


def rank_methods(tasks: Sequence[Mapping[str, Values]], score: str, *, ranked: bool = True) -> list[RankedMethod]:
    """Return methods from best to worst by a score over tasks. Every task has the same weight.

    Cases are resampled within their tasks, so that the ranks hold for other cases of the same tasks.

    Args:
        tasks: for each task, the values of the same editors.
        score: a criterion, ``score`` or ``extended_score``, by a measure of which more is better.
        ranked: whether to compute rank intervals, which take most of the time; otherwise every rank is left open.
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
    methods = [
        RankedMethod(e, float(values[n]), float(low[n]), float(high[n]), ranks[n].best, ranks[n].worst, cases)
        for n, e in enumerate(editors)
    ]
    return sorted(methods, key=lambda method: (-method.value, method.editor))


def ranking(group: TaskComparison, criterion: str, measure: str) -> list[RankedMethod]:
    """Return the editors of a task from best to worst, with rank intervals.

    Args:
        group: results of the task.
        criterion: a criterion, ``score`` or ``extended_score``.
        measure: a measure of which more is better.
    """
    values = {e: {c: group.values(e, c, measure) for c in CRITERIA} for e in group.runs}
    return rank_methods([values], criterion)
