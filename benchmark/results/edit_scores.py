"""Methods ordered by the edit score, with confidence intervals and rank intervals from the same resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.schema import TaskKind
from ..scoring.edit_score import CaseValues
from ..scoring.edit_score_estimates import MethodScores, interval, scores_over_tasks
from ..scoring.intervals import Rank, rank_intervals


@dataclass(frozen=True)
class ScoredMethod:
    """A method's edit score over some tasks. All values are between 0 and 1.

    Attributes:
        method: name of the method.
        value: the edit score; ``low`` and ``high`` are its 95% interval, or None.
        gain: mean over families; ``gain_low`` and ``gain_high`` are its 95% interval, or None.
        preservation: geometric mean over criteria, with its interval likewise.
        families: gain by family of target criteria.
        kept: preservation by criterion.
        best: lower end of the 95% interval of its rank; 1 is the best method.
        worst: upper end of that interval.
        cases: number of cases.
        tasks: number of tasks.
    """

    method: str
    value: float
    low: float | None
    high: float | None
    gain: float
    gain_low: float | None
    gain_high: float | None
    preservation: float
    preservation_low: float | None
    preservation_high: float | None
    families: Mapping[str, float]
    kept: Mapping[str, float]
    best: int
    worst: int
    cases: int
    tasks: int


@dataclass(frozen=True)
class ScoreDifference:
    """Difference of two methods' edit scores on the same resampled cases.

    Attributes:
        a: edit score of the first method.
        b: edit score of the second method.
        difference: a - b; ``low`` and ``high`` are its 95% interval, or None.
        cases: number of cases.
    """

    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    cases: int


def rank_by_edit_score(tasks: Sequence[Mapping[str, CaseValues]], *, ranked: bool = True) -> list[ScoredMethod]:
    """Return methods from best to worst by the edit score over tasks.

    Args:
        tasks: for each task, the values of the same methods.
        ranked: whether to compute rank intervals; otherwise every rank is left open.

    Returns:
        One entry per method; empty if no task has an edit score.
    """
    return ranked_by_scores(scores_over_tasks(tasks), ranked=ranked)


def ranked_by_scores(scores: Mapping[str, MethodScores], *, ranked: bool = True) -> list[ScoredMethod]:
    """Return methods from best to worst by their scores; see :func:`rank_by_edit_score`."""
    if not scores:
        return []
    methods = sorted(scores)
    values = np.array([float(scores[m].observed.value) for m in methods])
    draws = np.stack([scores[m].drawn.value for m in methods], axis=1)
    cases = scores[methods[0]].cases
    ranks = rank_intervals(values, draws, cases) if ranked else [Rank(1, len(methods))] * len(methods)
    rows = [_row(method, scores[method], rank) for method, rank in zip(methods, ranks, strict=True)]
    return sorted(rows, key=lambda row: (-row.value, row.method))


def _row(method: str, scores: MethodScores, rank: Rank) -> ScoredMethod:
    low, high = interval(scores.drawn.value)
    gain_low, gain_high = interval(scores.drawn.gain)
    preservation_low, preservation_high = interval(scores.drawn.preservation)
    return ScoredMethod(
        method=method,
        value=float(scores.observed.value),
        low=low,
        high=high,
        gain=float(scores.observed.gain),
        gain_low=gain_low,
        gain_high=gain_high,
        preservation=float(scores.observed.preservation),
        preservation_low=preservation_low,
        preservation_high=preservation_high,
        families={name: float(value) for name, value in scores.observed.families.items()},
        kept={name: float(value) for name, value in scores.observed.kept.items()},
        best=rank.best,
        worst=rank.worst,
        cases=scores.cases,
        tasks=scores.tasks,
    )


def score_difference(tasks: Sequence[Mapping[str, CaseValues]], a: str, b: str) -> ScoreDifference | None:
    """Return the difference of two methods' edit scores over tasks that both have; None if it is undefined."""
    both = [{a: task[a], b: task[b]} for task in tasks if {a, b} <= set(task)]
    scores = scores_over_tasks(both)
    if not scores:
        return None
    first, second = scores[a], scores[b]
    low, high = interval(first.drawn.value - second.drawn.value)
    value_a, value_b = float(first.observed.value), float(second.observed.value)
    return ScoreDifference(value_a, value_b, value_a - value_b, low, high, first.cases)


def of_kind(tasks: Sequence[Mapping[str, CaseValues]], kind: TaskKind) -> list[Mapping[str, CaseValues]]:
    """Return the tasks of one kind."""
    return [task for task in tasks if all(values.kind == kind for values in task.values())]


def complete_methods(tasks: Sequence[Mapping[str, CaseValues]]) -> list[Mapping[str, CaseValues]]:
    """Return the tasks reduced to the methods that have all of them."""
    shared = set.intersection(*(set(task) for task in tasks)) if tasks else set()
    return [{method: values for method, values in task.items() if method in shared} for task in tasks]


def format_rank(row: ScoredMethod) -> str:
    """Return a rank interval as text: one number, or the first and the last."""
    return str(row.best) if row.best == row.worst else f"{row.best}-{row.worst}"
