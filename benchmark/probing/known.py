"""What a model knows of a task before any edit, measured once per model and task and kept in the user's cache.

Known by *success*: at the edited prompt the true answer is more probable than the new one; by *exact*: each of its
tokens is the most probable; by *generated*: the greedy continuation begins with it. *Ranked first*: it is the most
probable of all answers that the task has. *Sentence accuracy*: of a phenomenon's minimal pairs, the grammatical
sentence is the more probable, as BLiMP is scored (Warstadt et al. 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import write_json
from ..core.schema import Case, Probe, Task, digest
from ..models.loading import cache_folder
from ..scoring.criteria import begins_with
from .causal import Prober
from .masked import make_prober

VERSION = 2
KNOWN_BY = ("success", "exact", "generated")


@dataclass(frozen=True)
class KnowledgeCache:
    """Where knowledge of one model is kept: by its weights and by how it was asked."""

    prober: Prober
    weight_hash: str
    folder: Path

    @classmethod
    def of(cls, prober: Prober) -> KnowledgeCache:
        """Return the store of a model in the user's cache."""
        return cls(prober, prober.lm.weight_hash(), cache_folder() / "known")

    def get_or_measure(self, task: Task, what: str, measure: Callable[[], Any]) -> Any:
        """Return what was stored for a task, or measure and store it."""
        lm = self.prober.lm
        asked = [VERSION, what, self.weight_hash, task.content_hash(), lm.bos_policy, self.prober.new_tokens]
        path = self.folder / f"{task.name}-{what}-{digest(asked)[:20]}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = measure()
            write_json(path, found)
            return found


def readable_cases(prober: Prober, task: Task) -> tuple[list[Case], dict[str, str]]:
    """Return the cases that the model's tokenizer can express, and why the others cannot be."""
    readable, unreadable = [], {}
    for case in task.cases:
        try:
            prober.check(case)
            readable.append(case)
        except ValueError as error:
            unreadable[case.id] = str(error)
    return readable, unreadable


def known_cases(cache: KnowledgeCache, task: Task) -> dict[str, dict[str, bool]]:
    """Return, by case id, by which of :data:`KNOWN_BY` the model knows the true answer."""

    def measure() -> dict[str, dict[str, bool]]:
        cases, _ = readable_cases(cache.prober, task)
        probes = [_true_probe(case) for case in cases]
        seen = cache.prober.observe(probes)
        return {
            case.id: {
                "success": o["target"]["logprob"] > o["rival"]["logprob"],
                "exact": all(rank == 0 for rank in o["target"]["ranks"]),
                "generated": begins_with(o["generated"], [probe.target]),
            }
            for case, probe, o in zip(cases, probes, seen, strict=True)
        }

    found: dict[str, dict[str, bool]] = cache.get_or_measure(task, "cases", measure)
    return found


def _true_probe(case: Case) -> Probe:
    request = case.request
    return Probe("known", "completion", request.text, request.target_true, request.target_new, "unchanged")


def ranked_first(cache: KnowledgeCache, task: Task) -> dict[str, bool]:
    """Return, by case id, whether the true answer is the most probable of all true answers of the task.

    An answer is at most as probable as its first token, so only those are scored whole whose first token is more
    probable than the true answer; the result is that of scoring them all.
    """

    def measure() -> dict[str, bool]:
        prober, (cases, _) = cache.prober, readable_cases(cache.prober, task)
        answers = sorted({case.request.target_true for case in cases})
        true = prober.observe([_true_probe(case) for case in cases], remember=None)
        firsts = prober.first_token_logprobs([case.request.text for case in cases], answers)
        rivals: list[tuple[int, Probe]] = []
        for i, (case, seen) in enumerate(zip(cases, true, strict=True)):
            for answer, logprob in zip(answers, firsts[i], strict=True):
                if answer != case.request.target_true and logprob > seen["target"]["logprob"]:
                    probe = Probe("known", "completion", case.request.text, answer, case.request.target_true, "new")
                    rivals.append((i, probe))
        first = [True] * len(cases)
        quick = make_prober(prober.lm, batch_size=prober.batch_size, new_tokens=0)
        for (i, _), seen in zip(rivals, quick.observe([probe for _, probe in rivals]), strict=True):
            first[i] &= seen["target"]["logprob"] < seen["rival"]["logprob"]
        return {case.id: value for case, value in zip(cases, first, strict=True)}

    found: dict[str, bool] = cache.get_or_measure(task, "ranking", measure)
    return found


def right_pairs(cache: KnowledgeCache, task: Task) -> dict[str, bool]:
    """Return, by pair id, whether the grammatical sentence of a phenomenon's pair is the more probable one."""

    def measure() -> dict[str, bool]:
        pairs = task.pairs
        probes = [
            Probe("known", "minimal_pair", "", pair["sentence_good"], pair["sentence_bad"], "unchanged")
            for pair in pairs
        ]
        seen = cache.prober.observe(probes)
        return {
            pair["pairID"]: o["target"]["logprob"] > o["rival"]["logprob"] for pair, o in zip(pairs, seen, strict=True)
        }

    found: dict[str, bool] = cache.get_or_measure(task, "pairs", measure)
    return found


def knowledge(cache: KnowledgeCache, task: Task) -> dict[str, Any]:
    """Return what a model knows of a task, as shares of its cases and pairs."""
    cases = known_cases(cache, task)
    row: dict[str, Any] = {"task": task.name, "kind": task.kind, "cases": len(cases)}
    for name in KNOWN_BY:
        row[name] = _share([case[name] for case in cases.values()])
    row["ranked_first"] = _share(list(ranked_first(cache, task).values())) if task.kind == "fact" else None
    row["sentences"] = _share(list(right_pairs(cache, task).values())) if task.pairs else None
    return row


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None
