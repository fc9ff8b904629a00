"""Measures a model's knowledge of a task before any edit, once per model and task, and caches the result on disk.

A model knows a case

- by ``success``: at the edited prompt, the true answer is more probable than the new one;
- by ``exact``: each token of the true answer is the most probable token;
- by ``generated``: the greedy continuation begins with the true answer.

``success`` is undefined where one of the two answers begins the other, which makes their probabilities incomparable
(:func:`~..scoring.answers.one_begins_other`); such a case is neither known nor unknown.

A true answer is *ranked first* if it is the most probable of all comparable true answers of the task. *Sentence
accuracy* is the share of a phenomenon's minimal pairs whose grammatical sentence is more probable, the measure of BLiMP
(Warstadt et al. 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import cache_folder, exclusive, write_json
from ..core.schema import Case, Probe, Task, digest
from ..scoring.answers import begins_with, one_begins_other
from ..scoring.criteria import MEASURES
from .base import Prober
from .prober import make_prober

VERSION = 4
"""Part of the cache key. Increment it when the measurement or the format of a cached value changes."""
KNOWN_BY = ("success", "exact", "generated")
"""The definitions of knowing a case, of which ``--known-by`` selects one."""


@dataclass(frozen=True)
class KnowledgeCache:
    """An on-disk cache of one model's knowledge, with one JSON file per task and measurement.

    The key is a digest of :data:`VERSION`, the measurement's name, the model's weights, tokenizer and configuration,
    the task's content, the BOS policy and the minimum length of continuations. It contains the dtype, the kind of
    device and the batch size as well, because rounding depends on them and may change a verdict.

    Attributes:
        prober: measures the model when a value is not cached.
        weight_hash: sha256 of the model's weights when the cache was opened.
        folder: folder of the JSON files.
    """

    prober: Prober
    weight_hash: str
    folder: Path

    @classmethod
    def of(cls, prober: Prober) -> KnowledgeCache:
        """Open the cache of a prober's model, in the folder ``known`` of the user's cache."""
        return cls(prober, prober.lm.weight_hash(), cache_folder() / "known")

    def get_or_measure(self, task: Task, measurement: str, measure: Callable[[], Any]) -> Any:
        """Return the cached value of a measurement on a task, or measure and cache it.

        Of several processes with the same key one measures; the others wait for its value.

        Args:
            task: the task.
            measurement: a name for the measurement, valid in a file name.
            measure: computes the value, which must be JSON and not null. Called only if no readable file exists.
        """
        lm = self.prober.lm
        key = [
            *(VERSION, measurement, task.content_hash(), lm.bos_policy, self.prober.new_tokens),
            *(self.weight_hash, lm.tokenizer_hash, lm.config_hash),
            *(str(lm.dtype), lm.device.type, self.prober.batch_size),
        ]
        path = self.folder / f"{task.name}-{measurement}-{digest(key)[:20]}.json"
        cached = _read(path)
        if cached is not None:
            return cached
        with exclusive(path):
            cached = _read(path)  # another process may have measured it meanwhile
            if cached is None:
                cached = measure()
                write_json(path, cached)
            return cached


def _read(path: Path) -> Any:
    """Return a cached value, or None if it is missing or unreadable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def readable_cases(prober: Prober, cases: Iterable[Case]) -> tuple[list[Case], dict[str, str]]:
    """Return the cases that the model's tokenizer can encode, and the error messages of the others by case id."""
    readable, unreadable = [], {}
    for case in cases:
        try:
            prober.check(case)
            readable.append(case)
        except ValueError as error:
            unreadable[case.id] = str(error)
    return readable, unreadable


def known_cases(cache: KnowledgeCache, task: Task) -> dict[str, dict[str, bool | None]]:
    """Return whether the model knows each readable case, by case id and by definition in :data:`KNOWN_BY`.

    A case without a true answer is not known. The value is None where ``success`` is undefined.
    """

    def measure() -> dict[str, dict[str, bool | None]]:
        readable, _ = readable_cases(cache.prober, task.cases)
        cases = [case for case in readable if case.request.target_true]
        probes = [_true_probe(case) for case in cases]
        observations = cache.prober.observe(probes)
        measured: dict[str, dict[str, bool | None]] = {
            case.id: {
                "success": None if (value := MEASURES["success"].of(probe, o, o)) is None else bool(value),
                "exact": all(rank == 0 for rank in o.target.ranks),
                "generated": begins_with(o.generated or "", [probe.target], probe.rival),
            }
            for case, probe, o in zip(cases, probes, observations, strict=True)
        }
        unknown: dict[str, bool | None] = dict.fromkeys(KNOWN_BY, False)
        return {case.id: measured.get(case.id, unknown) for case in readable}

    known: dict[str, dict[str, bool | None]] = cache.get_or_measure(task, "cases", measure)
    return known


def _true_probe(case: Case) -> Probe:
    request = case.request
    return Probe("known", "completion", request.text, request.target_true, request.target_new, "unchanged")


def ranked_first(cache: KnowledgeCache, task: Task) -> dict[str, bool]:
    """Return whether the true answer is the most probable of all true answers of the task, by case id.

    Answers of which one begins the other are not compared, and neither are answers that have no token of their own
    after the prompt. The result equals that of scoring every answer in full. Only answers whose upper bound
    (:meth:`.base.Prober.logprob_bounds`) exceeds the true answer's log-probability are scored.
    """

    def measure() -> dict[str, bool]:
        prober, (readable, _) = cache.prober, readable_cases(cache.prober, task.cases)
        cases = [case for case in readable if case.request.target_true]
        answers = sorted({case.request.target_true for case in cases})
        true_observations = prober.observe([_true_probe(case) for case in cases])
        bounds = _bounds(prober, [case.request.text for case in cases], answers)
        candidates: list[tuple[int, Probe]] = []
        for i, (case, observation) in enumerate(zip(cases, true_observations, strict=True)):
            for answer, bound in bounds[i].items():
                if answer != case.request.target_true and bound > observation.target.logprob:
                    probe = Probe("known", "completion", case.request.text, answer, case.request.target_true, "new")
                    candidates.append((i, probe))
        first = [True] * len(cases)
        without_continuations = make_prober(prober.lm, batch_size=prober.batch_size, new_tokens=0)
        observations = without_continuations.observe([probe for _, probe in candidates])
        for (i, probe), observation in zip(candidates, observations, strict=True):
            if not one_begins_other(probe.target, probe.rival, observation.target, observation.rival):
                first[i] &= observation.target.logprob < observation.rival.logprob
        ranked = {case.id: value for case, value in zip(cases, first, strict=True)}
        return {case.id: ranked.get(case.id, False) for case in readable}

    first_by_case: dict[str, bool] = cache.get_or_measure(task, "ranking", measure)
    return first_by_case


def _bounds(prober: Prober, prompts: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
    """Return an upper bound of the log-probability of each answer after each prompt.

    An answer that shares a token with the end of a prompt, as Chinese answers may, is left out there.
    """

    if prober.lm.causal:
        with suppress(ValueError):  # raised for one such answer
            return [dict(zip(answers, row, strict=True)) for row in prober.logprob_bounds(prompts, answers)]

    def has_tokens(prompt: str, answer: str) -> bool:
        try:
            return bool(prober.lm.token_queries(prompt, answer, "."))
        except ValueError:
            return False

    found = []
    for prompt in prompts:
        readable = [answer for answer in answers if has_tokens(prompt, answer)]
        found.append(dict(zip(readable, prober.logprob_bounds([prompt], readable)[0], strict=True)))
    return found


def right_pairs(cache: KnowledgeCache, task: Task) -> dict[str, bool]:
    """Return whether the grammatical sentence of each minimal pair is the more probable one, by pair id."""

    def measure() -> dict[str, bool]:
        pairs = task.pairs
        probes = [
            Probe("known", "minimal_pair", "", pair["sentence_good"], pair["sentence_bad"], "unchanged")
            for pair in pairs
        ]
        observations = cache.prober.observe(probes)
        return {pair["pairID"]: o.prefers_target for pair, o in zip(pairs, observations, strict=True)}

    right: dict[str, bool] = cache.get_or_measure(task, "pairs", measure)
    return right


def knowledge(cache: KnowledgeCache, task: Task) -> dict[str, Any]:
    """Return one row of the knowledge table: a model's knowledge of a task, as shares between 0 and 1.

    Returns:
        ``task``, ``kind``, ``cases`` (the number of readable cases), one share per name in :data:`KNOWN_BY` of the
        cases for which it is defined, ``ranked_first`` (share of the cases; None unless the task is of facts) and
        ``sentences`` (share of the minimal pairs; None without pairs).
    """
    cases = known_cases(cache, task)
    row: dict[str, Any] = {"task": task.name, "kind": task.kind, "cases": len(cases)}
    for name in KNOWN_BY:
        row[name] = _share([value for case in cases.values() if (value := case[name]) is not None])
    row["ranked_first"] = _share(list(ranked_first(cache, task).values())) if task.kind == "fact" else None
    row["sentences"] = _share(list(right_pairs(cache, task).values())) if task.pairs else None
    return row


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
