"""Comparison of stored lines of a run with the same lines measured again: every observation must agree.

Numbers agree within the tolerances of :data:`BEFORE` and :data:`AFTER`. Most probable tokens and texts must be equal.
Where they are not, rounding can be the reason: two tokens are almost equally probable. Such a value is accepted if the
repetition itself gives it as soon as its logits are perturbed by noise (``alternatives``). Times and memory depend on
the machine and are not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..core.records import Answer, CheckpointLine, DriftLine, Failure, Observation, ProbeRecord, Record

Alternatives = Mapping[Observation, Sequence[Observation]]
"""By observation of a repetition, the same probe measured with perturbed logits."""
ADDED_CRITERION = "integrity"
"""Criterion that results of version 0.1 do not have."""
RANK_FACTOR = 1.5
"""Largest ratio of two ranks, plus one each, that agree. A rank far from the top moves by tens with rounding."""


@dataclass(frozen=True)
class Tolerance:
    """Largest differences of two measurements that agree.

    Attributes:
        logprob: of a token's log-probability, in nats, where it is 0. It grows by a tenth with each nat below, because
            small probabilities change more.
        divergence: of KL and JS divergences, in nats, plus the same share of the larger value.
    """

    logprob: float
    divergence: float

    def logprobs(self, a: float, b: float) -> bool:
        """Return whether two log-probabilities of one token agree."""
        return abs(a - b) <= self.logprob * (1 + max(abs(a), abs(b)) / 10)

    def divergences(self, a: float, b: float) -> bool:
        """Return whether two divergences agree."""
        return abs(a - b) <= self.divergence * (1 + max(abs(a), abs(b)))


BEFORE = Tolerance(logprob=0.002, divergence=0.0005)
"""Tolerance of the unedited model, whose measurements differ by rounding alone."""
AFTER = Tolerance(logprob=0.02, divergence=0.005)
"""Tolerance of an edited model. Edits by gradient descent amplify rounding."""


@dataclass(frozen=True)
class Difference:
    """A value that differs.

    Attributes:
        text: case, probe, value and both numbers, in one line.
        may_be_tied: whether the value is a token or text that rounding can change.
        case_id: id of the case; empty for a difference of no case.
    """

    text: str
    may_be_tied: bool = False
    case_id: str = ""


def record_difference(
    stored: Record, again: Record, alternatives: Alternatives, *, complete: bool = True
) -> Difference | None:
    """Return the first difference between a stored record and its repetition, or None if they agree.

    Args:
        stored: the stored record.
        again: the record measured again.
        alternatives: perturbed measurements of the repetition; empty for none.
        complete: whether the stored record has all observations of this version; False for results of version 0.1.
    """
    case = f"case '{stored.case_id}'"
    if (stored.request, stored.further) != (again.request, again.further):
        return Difference(f"{case}: the request differs from the task's")
    failure = _failure_difference(stored.failure, again.failure)
    if failure is not None:
        return Difference(f"{case}: {failure}")
    edit = _edit_difference(stored, again)
    if edit is not None:
        return Difference(f"{case}: {edit}")
    probes = [probe for probe in again.probes if complete or probe.criterion != ADDED_CRITERION]
    if [_question(probe) for probe in stored.probes] != [_question(probe) for probe in probes]:
        return Difference(f"{case}: it has other probes here ({len(stored.probes)} stored, {len(probes)} here)")
    for number, (old, new) in enumerate(zip(stored.probes, probes, strict=True), start=1):
        for moment, first, second, tolerance in (
            ("before", old.before, new.before, BEFORE),
            ("after", old.after, new.after, AFTER),
        ):
            found = observation_difference(first, second, tolerance, alternatives, complete=complete)
            if found is not None:
                where = f"{case}, probe {number} ({old.criterion}), {moment} the edit: "
                return Difference(where + found.text, found.may_be_tied, stored.case_id)
    return None


def checkpoint_difference(
    stored: CheckpointLine, again: CheckpointLine, alternatives: Alternatives, *, complete: bool = True
) -> Difference | None:
    """Return the first difference between a stored checkpoint line and its repetition, or None if they agree.

    The arguments are those of :func:`record_difference`.
    """
    where = f"case '{stored.case_id}', after {stored.edits} edits"
    failure = _failure_difference(stored.failure, again.failure)
    if failure is not None:
        return Difference(f"{where}: {failure}")
    # Results of version 0.1 lack the last probe of each case, that of the criterion integrity.
    after = again.after if complete else again.after[: len(stored.after)]
    if len(stored.after) != len(after) or len(again.after) - len(after) > 1:
        return Difference(f"{where}: {len(stored.after)} observations stored, {len(again.after)} here")
    for number, (first, second) in enumerate(zip(stored.after, after, strict=True), start=1):
        found = observation_difference(first, second, AFTER, alternatives, complete=complete)
        if found is not None:
            return Difference(f"{where}, probe {number}: {found.text}", found.may_be_tied, stored.case_id)
    return None


def drift_difference(stored: DriftLine, again: DriftLine) -> Difference | None:
    """Return the first difference between a stored drift line and its repetition, or None if they agree.

    A metric with values 0 and 1 per sample, such as accuracy, can differ in one sample of twenty, because rounding
    decides between sentences of almost equal probability.
    """
    unedited = stored.edits == 0
    where = "drift " + (
        f"after the edit of case '{stored.case_id}'"
        if stored.case_id is not None
        else f"of batch {stored.block}"
        if stored.block is not None
        else "of the unedited model"
        if unedited
        else f"after {stored.edits} edits"
    )
    failure = _failure_difference(stored.failure, again.failure)
    if failure is not None:
        return Difference(f"{where}: {failure}")
    if [(t.task, t.metric, len(t.values)) for t in stored.tasks] != [
        (t.task, t.metric, len(t.values)) for t in again.tasks
    ]:
        return Difference(f"{where}: other tasks or numbers of samples here")
    tolerance = BEFORE if unedited else AFTER
    for first, second in zip(stored.tasks, again.tasks, strict=True):
        pairs = list(zip(first.values, second.values, strict=True))
        wrong = [n for n, (a, b) in enumerate(pairs) if not tolerance.logprobs(a, b)]
        binary = all(value in (0.0, 1.0) for pair in pairs for value in pair)
        if len(wrong) > (len(pairs) // 20 if binary else 0):
            a, b = pairs[wrong[0]]
            sample = f"sample {wrong[0] + 1} of {first.task}"
            return Difference(f"{where}, {sample}: {first.metric} is {a:.4g} in the file and {b:.4g} here")
    return None


def observation_difference(
    stored: Observation | None,
    again: Observation | None,
    tolerance: Tolerance,
    alternatives: Alternatives,
    *,
    complete: bool = True,
) -> Difference | None:
    """Return the first difference between two observations of one probe, or None if they agree.

    Args:
        stored: the stored observation.
        again: the observation of the repetition.
        tolerance: of the numbers.
        alternatives: perturbed measurements of the repetition; empty for none.
        complete: whether JS divergences must be stored, which results of version 0.1 lack.
    """
    if stored is None or again is None:
        if stored is again:
            return None
        return Difference("measured in only one of the two" if stored is None else "stored, and not measured here")
    others = [again, *alternatives.get(again, ())]
    return next(_differences(stored, others, tolerance, complete), None)


def _differences(
    stored: Observation, measured: Sequence[Observation], tolerance: Tolerance, complete: bool
) -> Iterator[Difference]:
    """Yield what differs: numbers first, because a difference of numbers cannot be a tie."""
    again = measured[0]
    for name in ("target_answer", "rival_answer"):
        yield from _number_differences(name, getattr(stored, name), getattr(again, name), tolerance)
    for label, first, second, agree in (
        ("log-probability of the most probable token", stored.top_logprob, again.top_logprob, tolerance.logprobs),
        ("KL divergence", stored.kl, again.kl, tolerance.divergences),
        ("JS divergence", stored.js, again.js, tolerance.divergences),
    ):
        if stored.js is None and label == "JS divergence" and not complete:
            continue
        if first is None or second is None:
            if first is not second:
                yield Difference(f"{label} is {first} in the file and {second} here")
        elif not agree(first, second):
            yield _unequal(label, f"{first:.4g}", f"{second:.4g}")
    if stored.recalled != again.recalled:
        old, new = _short(stored.recalled), _short(again.recalled)
        yield Difference(f"the text before the prompt is {old} in the file and {new} here")
    for name in ("target_answer", "rival_answer"):
        yield from _token_differences(name, stored, measured)
    if stored.top_id not in {other.top_id for other in measured}:
        yield Difference(f"the most probable token is {stored.top!r} in the file and {again.top!r} here", True)
    elif stored.top not in {other.top for other in measured if other.top_id == stored.top_id}:
        yield Difference(f"token {stored.top_id} is {stored.top!r} in the file and {again.top!r} here")
    for name in ("generated", "text"):
        texts = [getattr(other, name) for other in measured]
        if not _text_agrees(getattr(stored, name), texts):
            label = "generated text" if name == "generated" else "sampled text"
            yield Difference(
                f"the {label} is {_short(getattr(stored, name))} in the file and {_short(texts[0])} here", True
            )


def _number_differences(
    name: str, stored: Answer | None, again: Answer | None, tolerance: Tolerance
) -> Iterator[Difference]:
    label = name.removesuffix("_answer")
    if stored is None or again is None:
        if stored is not again:
            yield Difference(f"the {label} is scored in only one of the two")
        return
    if len(stored.token_logprobs) != len(again.token_logprobs):
        yield Difference(
            f"the {label} has {len(stored.token_logprobs)} tokens in the file and {len(again.token_logprobs)} here"
        )
        return
    for number, (a, b) in enumerate(zip(stored.token_logprobs, again.token_logprobs, strict=True), start=1):
        if not tolerance.logprobs(a, b):
            yield _unequal(f"log-probability of token {number} of the {label}", f"{a:.4f}", f"{b:.4f}")
    if abs(stored.logprob - sum(stored.token_logprobs)) > 1e-3 * (1 + abs(stored.logprob)):
        yield Difference(f"log-probability of the {label} is not the sum of those of its tokens")
    for number, (rank, other) in enumerate(zip(stored.ranks, again.ranks, strict=True), start=1):
        low, high = sorted((rank, other))
        if high + 1 > RANK_FACTOR * (low + 1) + 1:
            yield _unequal(f"rank of token {number} of the {label}", str(rank), str(other))


def _token_differences(name: str, stored: Observation, measured: Sequence[Observation]) -> Iterator[Difference]:
    """Yield tokens that no measurement has as the most probable, and ranks that are 0 in the file alone or never."""
    label = name.removesuffix("_answer")
    answer = getattr(stored, name)
    answers = [getattr(other, name) for other in measured]
    if answer is None or None in answers:
        return
    for number, token in enumerate(answer.argmax):
        if token not in {other.argmax[number] for other in answers}:
            yield Difference(
                f"the most probable token at token {number + 1} of the {label} has id {token} in the file and "
                f"{answers[0].argmax[number]} here",
                True,
            )
        first = answer.ranks[number] == 0
        if first not in {other.ranks[number] == 0 for other in answers}:
            ranks = answer.ranks[number], answers[0].ranks[number]
            yield Difference(
                f"rank of token {number + 1} of the {label} is {ranks[0]} in the file and {ranks[1]} here", True
            )


def _text_agrees(stored: str | None, texts: Sequence[str | None]) -> bool:
    """Return whether a text is one of some measured texts, or begins with all that they have in common.

    >>> _text_agrees("a b", ["a b"]), _text_agrees("a c", ["a b"]), _text_agrees("a bc d", ["a bc", "a b"])
    (True, False, True)
    """
    if stored in texts:
        return True
    measured = [text for text in texts if text is not None]
    if stored is None or len(set(measured)) < 2:
        return False
    common = takewhile(lambda pair: pair[0] == pair[1], zip(min(measured), max(measured), strict=False))
    return stored.startswith("".join(character for character, _ in common))


def _edit_difference(stored: Record, again: Record) -> str | None:
    """Return which fact about the edit differs. The values of its diagnostics are not compared."""
    for label, first, second in (
        ("changed parameters", stored.edit.parameters, again.edit.parameters),
        ("number of changed weights", stored.edit.parameters_touched, again.edit.parameters_touched),
        ("changed modules", stored.edit.modules, again.edit.modules),
        ("prefix", stored.edit.prefix, again.edit.prefix),
        ("size of the edit", stored.edit.size, again.edit.size),
    ):
        if first != second and not (label == "size of the edit" and first is None):
            return f"{label}: {_short(first)} in the file and {_short(second)} here"
    return None


def _failure_difference(stored: Failure | None, again: Failure | None) -> str | None:
    """Return which of two failures differs. Their messages can contain numbers that depend on the machine."""
    if (stored and (stored.phase, stored.type)) == (again and (again.phase, again.type)):
        return None
    first, second = (f"fails ({failure.type})" if failure else "succeeds" for failure in (stored, again))
    return f"{first} in the file and {second} here"


def _question(probe: ProbeRecord) -> tuple[object, ...]:
    return (
        probe.criterion,
        probe.kind,
        probe.prompt,
        probe.target,
        probe.rival,
        probe.expect,
        probe.aliases,
        probe.suffix,
    )


def _unequal(label: str, stored: str, again: str) -> Difference:
    return Difference(f"{label} is {stored} in the file and {again} here")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
