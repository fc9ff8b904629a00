"""Comparison of a stored result with an independent run of the same method: every observation must agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..core.records import Observation, ProbeRecord
from ..scoring.criteria import MEASURES
from .runs import Run

AGREEMENT: Mapping[str, float] = {
    "verdicts": 0.98,
    "answers of the unedited model": 0.98,
    "log-probabilities": 0.95,
    "most probable tokens": 0.95,
    "divergences": 0.95,
    "texts": 0.9,
}
"""Minimum share of equal values by kind. Machines round differently, which edits by gradient descent amplify."""
BEFORE_TOLERANCE = 0.05
AFTER_TOLERANCE = 0.2
"""Maximum differences of log-probabilities and divergences in nats, which grow by a tenth with each nat."""


@dataclass
class _Share:
    """Number of values, and of those that agree."""

    equal: int = 0
    total: int = 0

    def add(self, equal: bool) -> None:
        self.equal += equal
        self.total += 1

    @property
    def value(self) -> float:
        return self.equal / self.total if self.total else 1.0


def disagreement(run: Run, again: Run) -> str | None:
    """Return why another run does not confirm a result, or None if it does.

    Both runs must have the same probes. Verdicts, log-probabilities, most probable tokens, divergences and generated
    texts must agree to the shares of :data:`AGREEMENT`.

    Raises:
        KnbenchError: the records of a run cannot be read or were changed.
    """
    probes, others = _probes(run), _probes(again)
    if probes.keys() != others.keys():
        return "it has other probes"
    shares = {label: _Share() for label in AGREEMENT}
    for key, probe in probes.items():
        for label, equal in _comparisons(probe, others[key]):
            shares[label].add(equal)
    for label, share in shares.items():
        if share.value < AGREEMENT[label]:
            return f"only {share.value:.1%} of the {label} are equal; at least {AGREEMENT[label]:.0%} must be"
    return None


def _probes(run: Run) -> dict[tuple[str, int], ProbeRecord]:
    """Return the probes of a run by case and position; of a sequential run, as observed after the last edit."""
    return {
        (record.case_id, number): probe
        for record in run.final_records()
        for number, probe in enumerate(record.probes)
        if probe.before is not None
    }


def _comparisons(probe: ProbeRecord, other: ProbeRecord) -> Iterator[tuple[str, bool]]:
    """Yield whether values of two measurements of one probe agree, with the kind of the value."""
    if probe.before is None or other.before is None or (probe.after is None) != (other.after is None):
        yield "verdicts", False
        return
    if probe.before.has_answers and other.before.has_answers:
        success = MEASURES["success"]
        first, second = (success.of(p, p.before, p.after or p.before) for p in (probe, other) if p.before)
        yield "verdicts", first == second
        yield "answers of the unedited model", _close_answers(probe.before, other.before, BEFORE_TOLERANCE)
    if probe.after is not None and other.after is not None:
        yield from _compared(probe.after, other.after)


def _compared(first: Observation, second: Observation) -> Iterator[tuple[str, bool]]:
    """Yield whether the values of two observations of an edited model agree."""
    if first.has_answers and second.has_answers:
        yield "log-probabilities", _close_answers(first, second, AFTER_TOLERANCE)
        yield "most probable tokens", _argmax(first) == _argmax(second)
    for a, b in ((first.kl, second.kl), (first.js, second.js)):
        if a is not None or b is not None:
            yield "divergences", a is not None and b is not None and _close(a, b, AFTER_TOLERANCE)
    for text, other in ((first.generated, second.generated), (first.text, second.text)):
        if text is not None or other is not None:
            yield "texts", text == other


def _argmax(observation: Observation) -> list[tuple[int, ...]]:
    answers = (observation.target_answer, observation.rival_answer)
    return [answer.argmax for answer in answers if answer is not None]


def _close_answers(first: Observation, second: Observation, tolerance: float) -> bool:
    pairs = ((first.target_answer, second.target_answer), (first.rival_answer, second.rival_answer))
    return all(
        a is not None and b is not None and _close(a.logprob, b.logprob, tolerance)
        for a, b in pairs
        if a is not None or b is not None
    )


def _close(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * (1 + max(abs(a), abs(b)) / 10)
