"""Measures a model's knowledge of a task before any edit, once per model and task, and caches the result on disk.

A model knows a case

- by ``success``: at the edited prompt, the true answer is more probable than the new one;
- by ``exact``: each token of the true answer is the most probable token;
- by ``generated``: the greedy continuation begins with the true answer.

A case without a true answer counts as known unless the model already gives the new answer: by ``generated`` if the
greedy continuation begins with it, by the other two if each of its tokens is the most probable token.

``success`` is undefined where one of the two answers begins the other, which makes their probabilities incomparable
(:func:`~..scoring.answers.one_begins_other`); such a case is neither known nor unknown.

A true answer is *ranked first* if it is the most probable of all comparable true answers of the task. *Sentence
accuracy* is the share of a phenomenon's minimal pairs whose grammatical sentence is more probable, the measure of BLiMP
(Warstadt et al. 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..core.files import cache_folder, exclusive, write_json
from ..core.records import Observation
from ..core.schema import Case, Probe, Task, digest
from ..scoring.answers import begins_with, one_begins_other
from ..scoring.criteria import MEASURES
from .base import Prober
from .prober import make_prober

VERSION = 5
"""Part of the cache key. Increment it when the measurement or the format of a cached value changes."""
CASES_PER_BLOCK = 1024
"""Number of cases whose observations are in memory at once."""
CANDIDATES_PER_BLOCK = 50_000
"""Number of answers of all cases that are scored in full at once."""
KNOWN_BY = ("success", "exact", "generated")
"""The definitions of knowing a case, of which ``--known-by`` selects one."""

T = TypeVar("T")


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
        return cls(prober, prober.lm.weight_hash(cached=True), cache_folder() / "known")

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
            *(lm.chat or ()),
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

    A case without a true answer is known unless the model gives the new answer. The value is None where ``success`` is
    undefined.
    """

    def measure() -> dict[str, dict[str, bool | None]]:
        readable, _ = readable_cases(cache.prober, task.cases)
        found: dict[str, dict[str, bool | None]] = {}
        for start in range(0, len(readable), CASES_PER_BLOCK):
            cases = readable[start : start + CASES_PER_BLOCK]
            probes = [_known_probe(case) for case in cases]
            observations = cache.prober.observe(probes)
            found |= {case.id: _knows(p, o) for case, p, o in zip(cases, probes, observations, strict=True)}
        return found

    known: dict[str, dict[str, bool | None]] = cache.get_or_measure(task, "cases", measure)
    return known


def _known_probe(case: Case) -> Probe:
    """Return the probe of the true answer or, without one, of the new answer and its spellings."""
    request = case.request
    if request.target_true:
        return Probe("known", "completion", request.text, request.target_true, request.target_new, "unchanged")
    aliases = next((p.aliases for p in case.probes if (p.prompt, p.target) == (request.text, request.target_new)), ())
    return Probe("known", "completion", request.text, request.target_new, "", "new", aliases)


def _knows(probe: Probe, observation: Observation) -> dict[str, bool | None]:
    """Return whether the model knows the case of a probe of :func:`_known_probe`, by definition."""
    exact = all(rank == 0 for rank in observation.target.ranks)
    generated = begins_with(observation.generated or "", [probe.target, *probe.aliases], probe.rival)
    if not probe.rival:
        return {"success": not exact, "exact": not exact, "generated": not generated}
    value = MEASURES["success"].of(probe, observation, observation)
    return {"success": None if value is None else bool(value), "exact": exact, "generated": generated}


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
        ranked = {case.id: True for case in cases}
        without_continuations = make_prober(prober.lm, batch_size=prober.batch_size, new_tokens=0)
        for block in _blocks(_candidates(prober, cases, answers), CANDIDATES_PER_BLOCK):
            observations = without_continuations.observe([probe for _, probe in block])
            for (case_id, probe), observation in zip(block, observations, strict=True):
                if not one_begins_other(probe.target, probe.rival, observation.target, observation.rival):
                    ranked[case_id] &= observation.target.logprob < observation.rival.logprob
        return ranked

    first_by_case: dict[str, bool] = cache.get_or_measure(task, "ranking", measure)
    return first_by_case


def _candidates(prober: Prober, cases: Sequence[Case], answers: Sequence[str]) -> Iterator[tuple[str, Probe]]:
    """Yield case id and probe of each answer whose upper bound exceeds the true answer's log-probability."""
    for start in range(0, len(cases), CASES_PER_BLOCK):
        block = cases[start : start + CASES_PER_BLOCK]
        observations = prober.observe([_known_probe(case) for case in block])
        for first in range(0, len(block), prober.batch_size):
            chunk = block[first : first + prober.batch_size]
            bounds = _bounds(prober, [case.request.text for case in chunk], answers)
            for i, case in enumerate(chunk):
                true, observation = case.request.target_true, observations[first + i]
                for answer, bound in bounds[i].items():
                    if answer != true and bound > observation.target.logprob:
                        yield case.id, Probe("known", "completion", case.request.text, answer, true, "new")


def _blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


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
        cases with a true answer for which it is defined, ``ranked_first`` (share of the cases with a true answer; None
        unless the task is of facts) and ``sentences`` (share of the minimal pairs; None without pairs).
    """
    known = known_cases(cache, task)
    cases = {case.id: known[case.id] for case in task.cases if case.id in known and case.request.target_true}
    row: dict[str, Any] = {"task": task.name, "kind": task.kind, "cases": len(known)}
    for name in KNOWN_BY:
        row[name] = _share([value for case in cases.values() if (value := case[name]) is not None])
    row["ranked_first"] = _share(list(ranked_first(cache, task).values())) if task.kind == "fact" else None
    row["sentences"] = _share(list(right_pairs(cache, task).values())) if task.pairs else None
    return row


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
