"""Edit scores with confidence intervals: of a task, and of several methods over tasks.

Whole cases are resampled within their tasks, with all their probes, before and after the edit together. All methods
share each draw, and differences between them are therefore paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.documents import EditScore, Result
from ..core.records import Record
from ..core.schema import TaskKind
from .edit_score import CaseValues, Scores, case_values, score, score_methods
from .intervals import DRAWS, percentiles


def edit_score(records: Sequence[Record], kind: TaskKind) -> EditScore | None:
    """Return the edit score of a run with its 95% interval; None where it is undefined.

    The interval is the percentile interval of the bootstrap. A single case, and equal scores in all resamples, have
    none.

    Args:
        records: the records in the order of their cases; at a checkpoint those with its observations.
        kind: kind of the task.
    """
    if not records:
        return None
    values = case_values(records, kind)
    found = score(values)
    if found is None:
        return None
    drawn = score(values, _draw(np.random.default_rng(0), len(values.case_ids)))
    low, high = interval(drawn.value) if drawn and len(values.case_ids) > 1 else (None, None)
    return EditScore(
        value=float(found.value),
        low=low,
        high=high,
        gain=float(found.gain),
        preservation=float(found.preservation),
        families={name: float(value) for name, value in found.families.items()},
        kept={name: float(value) for name, value in found.kept.items()},
        without_headroom=values.without_headroom,
        cases=len(values.case_ids),
    )


def mean_over_checkpoints(result: Result) -> float | None:
    """Return the mean edit score over the checkpoints of a sequential run; None for other runs or where undefined.

    It describes the whole sequence. The score after the last edit is the edit score, and neither replaces the other.
    """
    scores = [point.edit_score.value for point in result.curve or () if point.edit_score]
    return sum(scores) / len(scores) if scores else None


def interval(draws: np.ndarray) -> tuple[float | None, float | None]:
    """Return the percentile interval of resampled scores, or None twice if all are equal."""
    if np.ptp(draws) == 0:
        return None, None
    low, high = percentiles(draws)
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Edit scores of one method over tasks, observed and on resampled cases.

    Attributes:
        observed: scores of shape ().
        drawn: scores of shape (draws,).
        cases: number of cases.
        tasks: number of tasks.
    """

    observed: Scores
    drawn: Scores
    cases: int
    tasks: int


def scores_over_tasks(tasks: Sequence[Mapping[str, CaseValues]]) -> dict[str, MethodScores]:
    """Return the edit scores of methods over tasks.

    The score of facts is the mean over their tasks, and so is that of phenomena. With tasks of both kinds, the score is
    the mean of the two. Gain, preservation, families and criteria are averaged in the same way, over the tasks that
    have them.

    Args:
        tasks: for each task, the values of the same methods on the same cases.

    Returns:
        Scores by method; empty if no task has a score.
    """
    rng = np.random.default_rng(0)
    observed: dict[str, list[tuple[TaskKind, Scores]]] = {}
    drawn: dict[str, list[tuple[TaskKind, Scores]]] = {}
    cases = count = 0
    for task in tasks:
        members = shared_cases(task)
        first = next(iter(members.values()))
        weights = _draw(rng, len(first.case_ids))
        several = list(members.values())
        scores = list(zip(score_methods(several), score_methods(several, weights), strict=True))
        if not len(first.case_ids) or any(found is None for pair in scores for found in pair):
            continue
        cases, count = cases + len(first.case_ids), count + 1
        for method, (now, resampled) in zip(members, scores, strict=True):
            if now is not None and resampled is not None:
                observed.setdefault(method, []).append((first.kind, now))
                drawn.setdefault(method, []).append((first.kind, resampled))
    return {m: MethodScores(_mean_over_tasks(observed[m]), _mean_over_tasks(drawn[m]), cases, count) for m in observed}


def shared_cases(task: Mapping[str, CaseValues]) -> dict[str, CaseValues]:
    """Return the values of methods on the cases that all of them have, in one order."""
    if len({values.case_ids for values in task.values()}) == 1:
        return dict(task)
    shared = set.intersection(*(set(values.case_ids) for values in task.values()))
    order = [case_id for case_id in next(iter(task.values())).case_ids if case_id in shared]
    return {method: values.select(order) for method, values in task.items()}


def _draw(rng: np.random.Generator, cases: int) -> np.ndarray:
    """Return how often each case is drawn, of shape (draws, cases)."""
    if not cases:
        return np.zeros((DRAWS, 0))
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=DRAWS).astype(np.float64)


def _mean_over_tasks(scores: Sequence[tuple[TaskKind, Scores]]) -> Scores:
    def mean(part: Callable[[Scores], np.ndarray | None]) -> np.ndarray:
        by_kind: dict[TaskKind, list[np.ndarray]] = {}
        for kind, found in scores:
            value = part(found)
            if value is not None:
                by_kind.setdefault(kind, []).append(value)
        return np.asarray(np.mean([np.mean(values, axis=0) for values in by_kind.values()], axis=0))

    families = list(dict.fromkeys(name for _, found in scores for name in found.families))
    criteria = list(dict.fromkeys(name for _, found in scores for name in found.kept))
    return Scores(
        value=mean(lambda s: s.value),
        gain=mean(lambda s: s.gain),
        preservation=mean(lambda s: s.preservation),
        families={name: mean(lambda s, name=name: s.families.get(name)) for name in families},  # type: ignore[misc]
        kept={name: mean(lambda s, name=name: s.kept.get(name)) for name in criteria},  # type: ignore[misc]
    )
