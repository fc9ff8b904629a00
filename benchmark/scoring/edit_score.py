"""The edit score: one number between 0 and 1 that needs both the wanted change and an otherwise unchanged model.

The score is the product of *gain*, the progress on the criteria that an edit must change, relative to the unedited
model, and of *preservation*, the closeness to the unedited model on everything else. No edit has no gain, and a
destroyed model preserves nothing; both score 0. An ideal edit scores 1.

Gain. For each target criterion c, ``A_c`` and ``B_c`` are the means over cases of the headline measure after the edit
and on the unedited model: ``generated`` for facts, ``success`` for phenomena. ``gain_c = max(0, (A_c - B_c) / (1 -
B_c))``. The gain is the mean over the families of criteria that are present, and within a family over its criteria.

Preservation. For each probe that an edit must not change, ``exp(-KL(before || after))`` of the next-token
distribution, times 1 if the preference between target and rival is as before, else 0. For specificity, it is also times
the share of the edit's shift of log-odds that the probe does not show: a constant on one word shifts the odds of two
forms everywhere by the same amount, and hardly changes the distribution or a preference. Preservation is the geometric
mean over criteria of the mean over cases.

Everything is a pure function of records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..core.records import Observation, ProbeRecord, Record
from ..core.schema import TaskKind
from .checkpoints import CheckpointRecord, unchanged
from .criteria import MEASURES, preference_is_defined

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "direct": ("reliability",),
    "wording": ("paraphrase", "synonym"),
    "inverse": ("symmetry",),
    "consequence": ("portability",),
}
"""Target criteria by family."""

PRESERVATION = ("neighbourhood", "unrelated", "specificity", "integrity")
"""Criteria of answers and predictions that an edit must not change."""

HEADLINE: Mapping[TaskKind, str] = {"fact": "generated", "linguistic": "success"}
"""The measure that gain is computed from: a fact must be said; no single noun or verb must be."""

MAX_BEFORE = 0.9
"""A criterion that the unedited model already fulfils to a greater share has no headroom and is left out."""

MIN_SHIFT = 1.0
"""Shift of log-odds in nats that a smaller one counts as: of an edit without effect, no share can be taken."""

NON_FINITE = ("FloatingPointError", "NonFiniteEditError")
"""Types of failures whose model has no finite probabilities."""


@dataclass(frozen=True)
class Definition:
    """The choices of an edit score. The defaults are the edit score; the others exist to show what depends on them.

    Attributes:
        headline: measure of gain by kind of task.
        families: target criteria by family.
        preservation: criteria of preservation.
        closeness: ``kl`` for exp(-KL), ``js`` for 1 - JS / ln 2.
        mean_over_families: kind of the mean.
        shift: whether specificity is also measured by the shift of log-odds, see :func:`unshifted`.
    """

    headline: Mapping[TaskKind, str]
    families: Mapping[str, tuple[str, ...]]
    preservation: tuple[str, ...]
    closeness: Literal["kl", "js"] = "kl"
    mean_over_families: Literal["arithmetic", "geometric"] = "arithmetic"
    shift: bool = True


EDIT_SCORE = Definition(HEADLINE, FAMILIES, PRESERVATION)
"""The definition of the edit score."""

TUNING_SCORE = replace(EDIT_SCORE, families={name: FAMILIES[name] for name in ("direct", "wording")})
"""The part of the edit score that hyper-parameters may be tuned by. The other families judge the methods."""


@dataclass(frozen=True, eq=False)
class CaseValues:
    """What the edit score of one method on one task is computed from: means over the probes of each case.

    All arrays have shape (cases,) and hold NaN where a case has no probe of the criterion.

    Attributes:
        kind: kind of the task.
        case_ids: ids of the cases in the order of the arrays.
        before: headline measure on the unedited model, by target criterion.
        after: headline measure after the edit, by target criterion.
        kept: closeness to the unedited model between 0 and 1, by preservation criterion.
        definition: the choices that the values were computed with.
    """

    kind: TaskKind
    case_ids: tuple[str, ...]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    kept: Mapping[str, np.ndarray]
    definition: Definition = EDIT_SCORE

    @cached_property
    def families(self) -> dict[str, tuple[str, ...]]:
        """The families with the criteria that are present and have headroom; without empty families."""
        left_out = self.without_headroom
        found = {
            family: tuple(c for c in criteria if c in self.before and c not in left_out)
            for family, criteria in self.definition.families.items()
        }
        return {family: criteria for family, criteria in found.items() if criteria}

    @cached_property
    def without_headroom(self) -> tuple[str, ...]:
        """The target criteria that the unedited model already fulfils."""
        return tuple(c for c, values in self.before.items() if np.nanmean(values) > MAX_BEFORE)

    def select(self, case_ids: Sequence[str]) -> CaseValues:
        """Return the values of some cases, in their order.

        Raises:
            KeyError: a case has no values.
        """
        positions = {case_id: n for n, case_id in enumerate(self.case_ids)}
        index = np.array([positions[case_id] for case_id in case_ids], dtype=int)

        def part(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {c: values[index] for c, values in arrays.items() if not np.isnan(values[index]).all()}

        return replace(
            self, case_ids=tuple(case_ids), before=part(self.before), after=part(self.after), kept=part(self.kept)
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """Edit scores and their parts, as arrays of one shape: () for a task, (draws,) for resampled cases.

    Attributes:
        value: the edit score.
        gain: mean over families.
        preservation: geometric mean over criteria.
        families: gain by family.
        kept: preservation by criterion.
    """

    value: np.ndarray
    gain: np.ndarray
    preservation: np.ndarray
    families: Mapping[str, np.ndarray]
    kept: Mapping[str, np.ndarray]


def case_values(records: Sequence[Record], kind: TaskKind, definition: Definition = EDIT_SCORE) -> CaseValues:
    """Return the values of each measured case.

    A failed edit counts as the unedited model: no gain, and everything is preserved. A model without finite
    probabilities has no gain and preserves nothing. Cases that could not be tokenised are left out.

    Args:
        records: the records of a run, in the order of their cases.
        kind: kind of the task.
        definition: the choices of the score.
    """
    measured = [record for record in records if any(probe.before is not None for probe in record.probes)]
    wanted = [c for criteria in definition.families.values() for c in criteria]
    rows = [_case_row(record, kind, wanted, definition) for record in measured]

    def stack(part: int, criteria: Sequence[str]) -> dict[str, np.ndarray]:
        arrays = {c: np.array([row[part].get(c, np.nan) for row in rows], dtype=np.float64) for c in criteria}
        return {c: values for c, values in arrays.items() if not np.isnan(values).all()}

    return CaseValues(
        kind=kind,
        case_ids=tuple(record.case_id for record in measured),
        before=stack(0, wanted),
        after=stack(1, wanted),
        kept=stack(2, definition.preservation),
        definition=definition,
    )


def _case_row(
    record: Record, kind: TaskKind, wanted: Sequence[str], definition: Definition
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return the means over a case's probes: before and after the edit by target criterion, and kept by criterion."""
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    kept: dict[str, list[float]] = {}
    measure = MEASURES[definition.headline[kind]]
    collapsed = _collapsed(record)
    shift = 0.0 if collapsed else shift_of_edit(record)
    for probe in record.probes:
        if probe.before is None:
            continue
        now = probe.after if probe.after is not None and not collapsed else unchanged(probe)
        if probe.criterion in wanted:
            values = measure.of(probe, probe.before, probe.before), measure.of(probe, probe.before, now)
            if values[0] is not None and values[1] is not None:
                before.setdefault(probe.criterion, []).append(values[0])
                after.setdefault(probe.criterion, []).append(values[1])
        elif probe.criterion in definition.preservation:
            value = 0.0 if collapsed else closeness(probe, probe.before, now, definition.closeness)
            if value and probe.criterion == "specificity" and definition.shift:
                value *= unshifted(probe, probe.before, now, shift)
            if value is not None:
                kept.setdefault(probe.criterion, []).append(value)
    return _means(before), _means(after), _means(kept)


def _means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {criterion: sum(found) / len(found) for criterion, found in values.items()}


def _collapsed(record: Record) -> bool:
    """Return whether the edited model gave no finite probabilities."""
    if isinstance(record, CheckpointRecord):
        return record.collapsed
    return record.failure is not None and record.failure.type in NON_FINITE


def closeness(
    probe: ProbeRecord, before: Observation, after: Observation, divergence: Literal["kl", "js"] = "kl"
) -> float | None:
    """Return how close an answer is to that of the unedited model, between 0 and 1; None if it was not measured.

    The value is exp(-KL), or 0 if the other one of target and rival is preferred than before. Without a rival, and
    where one answer begins the other, the divergence alone decides. Whole sentences have no next token; the preference
    alone decides.
    """
    if probe.kind == "generation":
        return None
    decided = probe.kind != "passages" and preference_is_defined(probe, before)
    if decided and before.prefers_target != after.prefers_target:
        return 0.0
    if divergence == "kl" and after.kl is not None:
        return math.exp(-after.kl)
    if divergence == "js" and after.js is not None:
        return 1 - after.js / math.log(2)
    return 1.0 if decided and probe.kind == "minimal_pair" else None


def shift_of_edit(record: Record) -> float:
    """Return by how much the edited prompt's log-odds of the new and the true answer rise, in nats.

    It is the mean over the probes of reliability whose preference is defined; 0 without one, and for a failed edit.
    """
    shifts = [
        _log_odds(probe.after) - _log_odds(probe.before)
        for probe in record.probes
        if probe.criterion == "reliability" and probe.before is not None and probe.after is not None
        if preference_is_defined(probe, probe.before)
    ]
    return sum(shifts) / len(shifts) if shifts else 0.0


def unshifted(probe: ProbeRecord, before: Observation, after: Observation, shift: float) -> float:
    """Return the share of an edit's shift that a probe of specificity does not show, between 0 and 1.

    The value is 1 if the log-odds of target and rival are as before, and 0 if they change as much as those of the
    edited prompt, in either direction. A constant added to the logit of one form has the value 0 everywhere.
    Edits that shift the edited prompt by less than :data:`MIN_SHIFT` are measured by that.

    Args:
        probe: the probe.
        before: on the unedited model.
        after: on the edited model.
        shift: result of :func:`shift_of_edit` for the probe's case, in nats.
    """
    if not preference_is_defined(probe, before):
        return 1.0
    change = abs(_log_odds(after) - _log_odds(before))
    return max(0.0, 1 - change / max(shift, MIN_SHIFT))


def _log_odds(observation: Observation) -> float:
    return observation.target.logprob - observation.rival.logprob


def score(values: CaseValues, weights: np.ndarray | None = None) -> Scores | None:
    """Return the edit score of a task, or of resampled cases.

    Args:
        values: values of the cases.
        weights: how often each case counts, of shape (..., cases); once each by default.

    Returns:
        Scores of the leading shape of ``weights``. None without a target criterion that has headroom, and
        without a preservation criterion.
    """
    (found,) = score_methods([values], weights)
    return found


def score_methods(several: Sequence[CaseValues], weights: np.ndarray | None = None) -> list[Scores | None]:
    """Return :func:`score` of several methods on the same cases, computed together where they have the same criteria.

    Args:
        several: values of each method, whose cases have the same order.
        weights: see :func:`score`.
    """
    alike: dict[Any, list[int]] = {}
    for n, values in enumerate(several):
        if values.families and values.kept:
            criteria = (*values.families.items(),), (*values.kept,), values.definition.mean_over_families
            alike.setdefault(criteria, []).append(n)
    found: list[Scores | None] = [None] * len(several)
    for members in alike.values():
        group = [several[n] for n in members]
        counts = np.ones(len(group[0].case_ids)) if weights is None else weights
        for n, scores in zip(members, _score_alike(group, counts), strict=True):
            found[n] = scores
    return found


def _score_alike(group: Sequence[CaseValues], counts: np.ndarray) -> list[Scores]:
    """Return the scores of methods with the same criteria. Arrays have the methods as last dimension."""
    first = group[0]
    targets = [criterion for criteria in first.families.values() for criterion in criteria]
    before, after = [values.before for values in group], [values.after for values in group]
    gains = _gains(_columns(before, targets), _columns(after, targets), counts)
    gain_of = dict(zip(targets, gains, strict=True))
    families = {name: np.mean([gain_of[c] for c in criteria], axis=0) for name, criteria in first.families.items()}
    kept = _means_over_cases(_columns([values.kept for values in group], list(first.kept)), counts)
    gain = _mean_over_families(np.stack(list(families.values())), first.definition.mean_over_families)
    preservation = _geometric(kept)
    return [
        Scores(
            gain[..., n] * preservation[..., n],
            gain[..., n],
            preservation[..., n],
            {name: values[..., n] for name, values in families.items()},
            {name: values[..., n] for name, values in zip(first.kept, kept, strict=True)},
        )
        for n in range(len(group))
    ]


def _columns(several: Sequence[Mapping[str, np.ndarray]], criteria: Sequence[str]) -> np.ndarray:
    """Return the values of methods as an array of shape (cases, criteria, methods)."""
    found = np.array([[values[c] for values in several] for c in criteria])
    return np.asarray(found.transpose(2, 0, 1))


def _gains(before: np.ndarray, after: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return gains of shape (criteria, ..., methods). A resample without headroom takes the gain of all cases."""
    a, b = _means_over_cases(after, counts), _means_over_cases(before, counts)
    gains = _relative_gain(np.minimum(b, 1 - 1e-9), a)
    if (b < 1).all():
        return gains
    ones = np.ones(len(before))
    everyone = _relative_gain(_means_over_cases(before, ones), _means_over_cases(after, ones))
    middle = tuple(range(1, gains.ndim - 1))
    return np.asarray(np.where(b < 1, gains, np.expand_dims(everyone, middle)))


def _relative_gain(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(0.0, (after - before) / (1 - before)))


def _means_over_cases(columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return means over the cases that have a value; over all of them where a resample contains none.

    Args:
        columns: of shape (cases, criteria, methods).
        counts: of shape (..., cases).

    Returns:
        Means of shape (criteria, ..., methods).
    """
    flat = columns.reshape(len(columns), -1)
    present = ~np.isnan(flat)
    if present.all() and (number := counts.sum(axis=-1, keepdims=True)).all():
        means = (counts @ flat) / number
    else:
        filled = np.where(present, flat, 0.0)
        number = counts @ present.astype(np.float64)
        everyone = filled.sum(axis=0) / present.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(number > 0, (counts @ filled) / number, everyone)
    return np.asarray(np.moveaxis(means.reshape(*counts.shape[:-1], *columns.shape[1:]), -2, 0))


def _mean_over_families(gains: np.ndarray, kind: Literal["arithmetic", "geometric"]) -> np.ndarray:
    return np.asarray(gains.mean(axis=0) if kind == "arithmetic" else _geometric(gains))


def _geometric(values: np.ndarray) -> np.ndarray:
    """Return the geometric mean over the first axis."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(np.log(values).mean(axis=0)))
