"""Comparison of results that were measured on the same unedited model or on the same task: they must agree on it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.documents import ModelCard, Result
from ..core.records import DriftLine, Observation, ProbeRecord, Record, to_json
from .documents import comparable
from .plausibility import SAME_MODEL_TOLERANCE
from .runs import Run

MAX_OTHER_TEXTS = 0.1
"""Maximum share of greedy continuations of the unedited model that differ between machines."""
_CERTAIN = math.log(0.55)
"""A token with a greater log-probability is the most probable one, rounding aside."""
_ADDED_KINDS = ("generation", "passages")
"""Kinds of probes that a run adds to those of its task."""


class UneditedModels:
    """Answers of unedited models, descriptions of models and tasks, and choices of cases, from the results so far.

    The first result decides, and later ones are compared with it.
    """

    def __init__(self) -> None:
        self._answers: dict[bytes, tuple[tuple[float, ...], str]] = {}
        self._texts: dict[bytes, str] = {}
        self._kept: dict[bytes, tuple[Mapping[bytes, bool], str]] = {}
        self._cards: dict[bytes, tuple[Mapping[str, Any], str]] = {}
        self._cases: dict[bytes, tuple[bytes, str]] = {}

    def differences(self, run: Run, records: Sequence[Record], drift: Sequence[DriftLine]) -> Iterator[str]:
        """Yield one line per kind of difference to the earlier results, and remember what is new.

        Args:
            run: the result.
            records: its records.
            drift: its drift lines.
        """
        where = str(run.result_path)
        found = (
            *(self._other_cards(run.result, where), self._other_cases(run.result, records, where)),
            *(self._other_answers(run.result, records, where), self._other_probes(run.result, records, where)),
            self._other_drift(run.result, drift, where),
        )
        for differences in found:
            first = None
            for difference in differences:  # all, because each step remembers values
                first = first or difference
            if first is not None:
                yield first

    def _other_cards(self, result: Result, where: str) -> Iterator[str]:
        """Compare the descriptions of the model and the task, which the site shows once for all methods."""
        model, task = result.model, result.task
        for label, key, card in (
            ("model", ("weights", model.weight_hash, model.dtype), _identity(model)),
            ("model", ("name", model.name, model.dtype), _identity(model)),
            ("task", ("task", task.name, task.version, task.content_hash), to_json(task)),
        ):
            known, source = self._cards.setdefault(_digest(key), (card, where))
            other = next((name for name in card if card[name] != known.get(name)), None)
            if other is not None:
                yield f"{where}: /{label}/{other} differs from that of the same {label} in {source}; they must be equal"
        if result.protocol.bos == "auto":
            stated = {"bos_prepended": result.protocol.bos_prepended}
            known, source = self._cards.setdefault(_digest(("bos", _identity(model))), (stated, where))
            if known != stated:
                yield f"{where}: /protocol/bos_prepended differs from that of the same model in {source}"
        for name in ("tokenizer_hash", "config_hash"):
            value = getattr(model, name)
            if value is not None:
                known, source = self._cards.setdefault(_digest((name, model.weight_hash)), ({name: value}, where))
                if known[name] != value:
                    yield f"{where}: /model/{name} differs from that of the same model in {source}; they must be equal"

    def _other_cases(self, result: Result, records: Sequence[Record], where: str) -> Iterator[str]:
        """Compare the choice of cases with that of results with the same settings."""
        settings = comparable(result)
        if result.protocol.regime != "sequential":
            settings.pop("cases")  # the model and the task decide it
        ids = _digest(sorted(record.case_id for record in records))
        known, source = self._cases.setdefault(_digest(settings), (ids, where))
        if known != ids:
            yield f"{where}: has other cases than {source}, which has the same settings; run them all"

    def _other_answers(self, result: Result, records: Sequence[Record], where: str) -> Iterator[str]:
        """Compare the answers of the unedited model."""
        about = _about(result)
        tolerance = SAME_MODEL_TOLERANCE * (1 if result.model.dtype == "float32" else 10)
        texts = others = 0
        for number, record in enumerate(records):
            for position, probe in enumerate(record.probes):
                before = probe.before
                if before is None or not before.has_answers:
                    continue
                for question, values in _answers(probe, before):
                    known, source = self._answers.setdefault(_digest((about, question)), (values, where))
                    if not _close(known, values, tolerance):
                        place = f"{where}: /{number}/probes/{position}/before of its records differs from {source}"
                        yield f"{place} for the same question to the same unedited model"
                if before.generated is not None:
                    key = _digest((about, result.protocol.new_tokens, probe.prompt, probe.suffix))
                    texts += 1
                    others += self._texts.setdefault(key, before.generated) != before.generated
        if others > max(2, MAX_OTHER_TEXTS * texts):
            yield (
                f"{where}: {others} of {texts} continuations of the unedited model differ from those of other results "
                "on the same model; run it again"
            )

    def _other_probes(self, result: Result, records: Sequence[Record], where: str) -> Iterator[str]:
        """Compare which probes were left out because the unedited model answers them wrongly."""
        protocol = result.protocol
        about = (_about(result), result.task.name, result.task.content_hash, protocol.known_only)
        for record in records:
            kept = {
                _digest((p.criterion, p.kind, p.prompt, p.target, p.rival)): _is_certain(p, p.before)
                for p in record.probes
                if p.before is not None and p.kind not in _ADDED_KINDS  # None if the tokenizer cannot encode the case
            }
            known, source = self._kept.setdefault(_digest((about, record.case_id)), (kept, where))
            for first, second, verb in ((known, kept, "lacks"), (kept, known, "has")):
                extra = sum(certain for probe, certain in first.items() if probe not in second)
                if extra:
                    what = "the unedited model answers them correctly" if verb == "lacks" else "it answers them wrongly"
                    yield (
                        f"{where}: case '{record.case_id}' {verb} {extra} probes that {source} "
                        f"{'has' if verb == 'lacks' else 'left out'}: {what}"
                    )

    def _other_drift(self, result: Result, lines: Sequence[DriftLine], where: str) -> Iterator[str]:
        """Compare the drift tasks on the unedited model."""
        drift = result.protocol.drift
        for task in (task for line in lines if line.edits == 0 for task in line.tasks):
            key = _digest((_about(result), "drift", drift, task.task, task.metric))
            known, source = self._answers.setdefault(key, (task.values, where))
            if not _close(known, task.values, SAME_MODEL_TOLERANCE):
                yield f"{where}: drift task '{task.task}' differs from {source} on the same unedited model"


def _identity(model: ModelCard) -> dict[str, Any]:
    """Return the part of a model's card that its weights determine."""
    optional = ("tokenizer_hash", "config_hash", "unused_tensors")  # not in results of version 0.1
    return {name: value for name, value in to_json(model).items() if name not in optional}


def _about(result: Result) -> tuple[object, ...]:
    """Return what the answers of an unedited model depend on, besides the question."""
    return result.model.weight_hash, result.model.dtype, result.protocol.bos_prepended


def _answers(probe: ProbeRecord, before: Observation) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Yield questions to a model, each with the log-probabilities that it answers with."""
    for text, answer in ((probe.target, before.target_answer), (probe.rival, before.rival_answer)):
        if answer is not None:
            yield (probe.kind, probe.prompt, probe.suffix, text), answer.token_logprobs
    if before.top_logprob is not None:
        yield (
            (probe.kind, probe.prompt, probe.suffix, "", str(len(before.target.token_logprobs))),
            (before.top_logprob,),
        )


def _close(known: Sequence[float], values: Sequence[float], tolerance: float) -> bool:
    """Whether log-probabilities are equal up to rounding, which grows with their size."""
    return len(known) == len(values) and all(
        abs(a - b) <= tolerance * (1 + abs(a) / 20) for a, b in zip(known, values, strict=True)
    )


def _is_certain(probe: ProbeRecord, before: Observation) -> bool:
    """Whether the unedited model answers a probe correctly on every machine. Other probes may be left out on some."""
    if probe.expect != "unchanged":
        return True
    if before.rival_answer is not None:
        return before.target.logprob - before.rival.logprob > 2 * SAME_MODEL_TOLERANCE
    return min(before.target.token_logprobs) > _CERTAIN


def _digest(value: Any) -> bytes:
    """Return a short key of a value, whose texts may be long."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:16]
