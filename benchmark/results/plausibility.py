"""Checks of observations against what a model can produce, and against other results on the same unedited model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence

from ..core.documents import ModelCard, Result
from ..core.records import Answer, CheckpointLine, DriftLine, Observation, ProbeRecord, Record, Timings, to_json

SUM_TOLERANCE = 1e-3
"""Tolerance for sums of log-probabilities, in nats, and for sums of probabilities."""
SAME_MODEL_TOLERANCE = 0.05
"""Maximum difference of a log-probability of the unedited model between machines, in nats."""
MAX_SECONDS, MAX_MEMORY_MB = 1e7, 1e9
"""Limits of the cost of a case: four months, and a petabyte."""
RESOLUTION = 1e-6
"""Error of a probability near 1 whose logarithm is a float32 number, with a margin for the sum of a softmax."""
MAX_JS = math.log(2)
"""Maximum of a Jensen-Shannon divergence, in nats."""


def implausible(result: Result, records: Sequence[Record], checkpoints: Sequence[CheckpointLine]) -> str | None:
    """Return the first value that no model produces, with its position in the records, or None.

    Args:
        result: the result.
        records: its records.
        checkpoints: its checkpoint lines; empty unless the run is sequential.
    """
    flaws = (
        *(_repeated(records), _flaws_of_records(result, records)),
        *(_flaws_of_checkpoints(result, records, checkpoints), _without_edit(records)),
    )
    return next((flaw for found in flaws for flaw in found), None)


def _repeated(records: Sequence[Record]) -> Iterator[str]:
    """Yield the records that have the observations of another record."""
    seen: dict[str, int] = {}
    for number, record in enumerate(records):
        after = json.dumps([to_json(probe.after) for probe in record.probes], sort_keys=True)
        key = hashlib.sha256(after.encode()).hexdigest()
        if record.failure is None and seen.setdefault(key, number) != number:
            yield f"/{number} has exactly the observations of /{seen[key]}; measure each case"


def _flaws_of_records(result: Result, records: Sequence[Record]) -> Iterator[str]:
    for number, record in enumerate(records):
        flaw = _impossible_cost(record)
        if flaw:
            yield f"/{number}/timings/{flaw}"
        for position, probe in enumerate(record.probes):
            for side, observation in (("before", probe.before), ("after", probe.after)):
                flaw = None if observation is None else impossible(result.model, probe, observation)
                if flaw:
                    yield f"/{number}/probes/{position}/{side}/{flaw}"
            flaw = None if probe.after is None else _too_small_divergence(result.model, probe, probe.after)
            if flaw:
                yield f"/{number}/probes/{position}/after/{flaw}"


def _flaws_of_checkpoints(
    result: Result, records: Sequence[Record], checkpoints: Sequence[CheckpointLine]
) -> Iterator[str]:
    by_case = {record.case_id: record for record in records}
    for line in checkpoints:
        where = f"checkpoint of case '{line.case_id}' after {line.edits} edits:"
        pairs = zip(by_case[line.case_id].probes, line.after, strict=False)
        for position, (probe, observation) in enumerate(pairs):
            flaw = observation and (
                impossible(result.model, probe, observation) or _too_small_divergence(result.model, probe, observation)
            )
            if flaw:
                yield f"{where} /after/{position}/{flaw}"


def _without_edit(records: Sequence[Record]) -> Iterator[str]:
    """Yield the records whose answers changed although they name no change of the model."""
    for number, record in enumerate(records):
        changed = record.edit.parameters or record.edit.prefix or record.edit.modules
        if not changed and record.failure is None and _answers_changed(record):
            yield f"/{number}/edit names no parameter, module or text, and yet answers changed without a recalled text"


def _impossible_cost(record: Record) -> str | None:
    """Return which cost of a case no machine has, and how, or None."""
    for name in Timings.__struct_fields__:
        value, limit = getattr(record.timings, name), MAX_MEMORY_MB if name == "peak_memory_mb" else MAX_SECONDS
        if value is not None and not 0 < value <= limit:
            return f"{name} is {value}; it must be above 0 and at most {limit:g}"
    if record.timings.edit_seconds is None and record.failure is None:
        return "edit_seconds is missing; the edit did not fail"
    return None


def impossible(model: ModelCard, probe: ProbeRecord, observation: Observation) -> str | None:
    """Return where an observation contradicts its probe, its model or itself, and how, or None."""
    if observation.js is not None and observation.js > MAX_JS + SUM_TOLERANCE:
        return f"js is above {MAX_JS:.4f}, the maximum of a Jensen-Shannon divergence"
    if not observation.has_answers:
        return None
    if bool(probe.rival) != (observation.rival_answer is not None):
        return "rival: the observation has scores of a rival exactly if its probe names one"
    vocabulary = model.vocabulary
    if observation.top_id is not None and observation.top_id >= vocabulary:
        return f"top_id is {observation.top_id}; the model has {vocabulary} tokens"
    for side, answer in (("target", observation.target), ("rival", observation.rival_answer)):
        if answer is None:
            continue
        flaw = _impossible_answer(answer, vocabulary)
        if flaw is None and _same_position(model, observation.target, answer):
            flaw = _contradicts_top(answer, observation)
        if flaw:
            return f"{side}/{flaw}"
    flaw = _beginning_of_text(observation)
    return flaw or _probable_together(model, probe, observation)


def _impossible_answer(answer: Answer, vocabulary: int) -> str | None:
    """Return how the scores of an answer contradict each other, or None."""
    if len({len(answer.token_logprobs), len(answer.ranks), len(answer.argmax)}) != 1:
        return "token_logprobs, ranks and argmax differ in length"
    if abs(sum(answer.token_logprobs) - answer.logprob) > SUM_TOLERANCE * (1 + abs(answer.logprob)):
        return "logprob is not the sum of token_logprobs"
    for number, (logprob, rank) in enumerate(zip(answer.token_logprobs, answer.ranks, strict=True)):
        if rank >= vocabulary:
            return f"ranks/{number} is {rank}; the model has {vocabulary} tokens"
        if logprob + math.log(rank + 1) > SUM_TOLERANCE:  # each of the tokens before it is at least as probable
            return f"token_logprobs/{number} is too probable for rank {rank}"
    beyond = next((number for number, token in enumerate(answer.argmax) if token >= vocabulary), None)
    return None if beyond is None else f"argmax/{beyond} is not a token; the model has {vocabulary} tokens"


def _same_position(model: ModelCard, target: Answer, other: Answer) -> bool:
    """Whether two answers begin with the same prediction. A masked model predicts with as many masks as tokens."""
    return model.objective == "causal" or len(target.token_logprobs) == len(other.token_logprobs)


def _contradicts_top(answer: Answer, observation: Observation) -> str | None:
    """Return how the first token of an answer contradicts the most probable next token, or None."""
    if observation.top_id is not None and answer.argmax[0] != observation.top_id:
        return "argmax/0 is not top_id, the most probable next token"
    if observation.top_logprob is None:
        return None
    first, best = answer.token_logprobs[0], observation.top_logprob
    if first > best + SUM_TOLERANCE:
        return "token_logprobs/0 is more probable than the most probable token"
    if answer.ranks[0] == 0 and best - first > SUM_TOLERANCE:
        return "ranks/0 is 0 for a token that is not the most probable"
    return None


def _beginning_of_text(observation: Observation) -> str | None:
    """Return how the continuation contradicts the most probable next token, or None. Without new tokens it is empty."""
    generated, top = observation.generated, observation.top
    if not generated or top is None or "\ufffd" in top:  # part of a character
        return None
    return None if generated.startswith(top) else "generated does not begin with top, the most probable next token"


def _probable_together(model: ModelCard, probe: ProbeRecord, observation: Observation) -> str | None:
    """Return which probabilities of the target and the rival exceed 1 together, or None.

    Two answers exclude each other unless one begins the other. Scores of a masked model are no probabilities of texts.
    """
    if observation.rival_answer is None:
        return None
    target, rival = observation.target, observation.rival
    first = math.exp(target.token_logprobs[0]) + math.exp(rival.token_logprobs[0])
    same = target.token_logprobs[0] == rival.token_logprobs[0]  # both answers may begin with the same token
    at_once = observation.top_logprob is not None and _same_position(model, target, rival)
    if at_once and not same and first > 1 + SUM_TOLERANCE:
        return "target/token_logprobs/0 and rival/token_logprobs/0 have a probability of more than 1 together"
    one_begins = probe.target.startswith(probe.rival) or probe.rival.startswith(probe.target)
    if model.objective != "causal" or one_begins:
        return None
    if math.exp(target.logprob) + math.exp(rival.logprob) > 1 + SUM_TOLERANCE:
        return "target/logprob and rival/logprob have a probability of more than 1 together"
    return None


def _too_small_divergence(model: ModelCard, probe: ProbeRecord, after: Observation) -> str | None:
    """Return which divergence is smaller than the change of one answer implies, or None.

    A divergence of two distributions is at least that of the two events "this token" and "another token" (data
    processing inequality). Masked models may measure the divergence at another position.
    """
    before = probe.before
    if model.objective != "causal" or before is None or not (before.has_answers and after.has_answers):
        return None
    for old, new in ((before.target_answer, after.target_answer), (before.rival_answer, after.rival_answer)):
        if old is None or new is None:
            continue
        p, q = math.exp(old.token_logprobs[0]), math.exp(new.token_logprobs[0])
        mean = (p + q) / 2
        for name, stated, least in (
            ("kl", after.kl, _two_events(p, q)),
            ("js", after.js, (_two_events(p, mean) + _two_events(q, mean)) / 2),
        ):
            if stated is not None and stated < least - SUM_TOLERANCE * (1 + least):
                return f"{name} is {stated:.4g}; the answers alone differ by {least:.4g}"
    return None


def _two_events(p: float, q: float) -> float:
    """Return the Kullback-Leibler divergence of two events with probabilities p and 1 - p from q and 1 - q, in nats.

    A small 1 - q is known to :data:`RESOLUTION` only: the greatest value gives the smallest divergence.
    """
    parts = ((p, q), (max(0.0, 1 - p), max(0.0, 1 - q) + RESOLUTION))
    return sum(a * math.log(a / b) for a, b in parts if a > 0 and b > 0)


def _answers_changed(record: Record) -> bool:
    """Return whether a log-probability changed by more than rounding, where no text is recalled for the prompt."""
    return any(
        abs(after.logprob - before.logprob) > SAME_MODEL_TOLERANCE
        for probe in record.probes
        if probe.before and probe.after and probe.before.has_answers and probe.after.has_answers
        if not probe.after.recalled
        for before, after in (
            (probe.before.target, probe.after.target),
            (probe.before.rival_answer, probe.after.rival_answer),
        )
        if before is not None and after is not None
    )


def implausible_drift(lines: Sequence[DriftLine]) -> str | None:
    """Return the first drift measurement that no model produces, or None."""
    for number, line in enumerate(lines):
        if bool(line.tasks) == (line.failure is not None):
            return f"/{number} must have either values or a failure"
        for task in line.tasks:
            if task.metric in ("nll", "perplexity") and min(task.values) < 0:
                return f"/{number}: {task.metric} of task '{task.task}' is negative"
            if task.metric.startswith("acc") and not all(0 <= value <= 1 for value in task.values):
                return f"/{number}: {task.metric} of task '{task.task}' is not between 0 and 1"
    return None
