"""Localisation of knowledge neurons for facts and grammatical phenomena, with measures of how localised they are.

Niu et al. 2024, section 4: the prompts of a group ask for the same fact or the same word, and are searched together.
Three measures describe a group: the number of neurons found, the sharing fraction tau at which the search stopped, and
the similarity of the prompts' attributions (R1^2). They are computed in the same way and from the same number of
prompts for facts and for phenomena.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.schema import Case, EditRequest, Support, Task, derived_seed
from ..models.attribution import Integral, Neuron, Search, attributions, search
from ..models.language_model import LanguageModel
from ..models.precision import in_float64
from ..scoring.intervals import mean_over_cases
from .base import group_by_task

MAX_GROUPING_WORDS = 10
"""Cases of a phenomenon are grouped by target word, or else by cue, if there are at most this many of them."""


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that are searched together: the wordings of a fact, or prompts of a phenomenon with one target or cue.

    Attributes:
        name: the fact's prompt, or the word, with a number from the second group of a word on.
        prompts: prompts with their true answers.
    """

    name: str
    prompts: tuple[Support, ...]


@dataclass(frozen=True)
class LocaliseSettings:
    """Settings of localisation.

    Attributes:
        prompts: prompts per group, the same for facts and phenomena because R1^2 depends on their number.
        groups: maximum number of groups per task.
        seed: seed of the choice of groups and prompts.
        integral: settings of the attribution.
        search: settings of the neuron search.

    Raises:
        ValueError: ``prompts`` is below 2 or ``groups`` below 1.
    """

    prompts: int = 9
    groups: int = 5
    seed: int = 0
    integral: Integral = field(default_factory=Integral)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.groups < 1:
            raise ValueError("prompts must be at least 2 and groups at least 1")


def build_prompt_groups(task: Task, cases: Sequence[Case], settings: LocaliseSettings) -> list[PromptGroup]:
    """Divide a task's prompts into groups with ``settings.prompts`` prompts each.

    A group of a fact consists of its wordings. The prompts of a phenomenon are grouped by target word (himself,
    herself) if the task has at most :data:`MAX_GROUPING_WORDS`, else by cue (this, these) under the same condition,
    else by case with its support prompts. The groups do not depend on the order of the cases.
    """
    is_fact = task.kind == "fact"
    prompts_by_name = {case.request.text: _wordings(case.request) for case in cases} if is_fact else _by_word(cases)
    size = settings.prompts
    candidates = []
    for name, prompts in prompts_by_name.items():
        ordered = sorted(prompts, key=lambda s: derived_seed(settings.seed, "prompt", s.prompt, s.target))
        for number in range(len(ordered) // size):  # a word with enough prompts gives several groups
            members = tuple(ordered[number * size : (number + 1) * size])
            rank = derived_seed(settings.seed, "group", task.name, name)
            candidates.append((number, rank, PromptGroup(name if number == 0 else f"{name} #{number + 1}", members)))
    candidates.sort(key=lambda c: c[:2])
    return sorted((group for _, _, group in candidates[: settings.groups]), key=lambda group: group.name)


def _wordings(request: EditRequest) -> list[Support]:
    """Return the edit prompt and the support prompts with the same answer."""
    prompts = [Support(request.text, request.target_true), *request.support]
    return [s for s in dict.fromkeys(prompts) if s.target == request.target_true] or prompts


def _by_word(cases: Sequence[Case]) -> dict[str, list[Support]]:
    """Group prompts by target word, by cue, or by case."""
    for field_name in ("target_true", "subject"):
        words: dict[str, list[Support]] = {}
        for case in cases:
            prompt = Support(case.request.text, case.request.target_true)
            words.setdefault(getattr(case.request, field_name), []).append(prompt)
        if len(words) <= MAX_GROUPING_WORDS:
            return {word: list(dict.fromkeys(prompts)) for word, prompts in words.items()}
    return {
        case.request.text: [Support(case.request.text, case.request.target_true), *case.request.support]
        for case in cases
    }


def r1_squared(vectors: Tensor) -> float:
    """Return R1^2, the similarity of directions: 1 for parallel vectors, 0 for pairwise orthogonal ones.

    R1^2 = (s1^2 - 1) / (n - 1), where s1 is the largest singular value of the matrix of unit vectors. For two vectors
    it is the absolute cosine of their angle.

    Args:
        vectors: tensor of shape (n, features) with n >= 2 and no zero vector.

    Raises:
        ValueError: there are fewer than two vectors, or one of them is zero.
    """
    if len(vectors) < 2:
        raise ValueError("R1^2 needs at least two vectors")
    vectors = in_float64(vectors)
    norms = vectors.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise ValueError("a vector of zeros has no direction")
    unit = vectors / norms
    largest = float(torch.linalg.eigvalsh(unit @ unit.T)[-1])  # s1^2; the (n, n) matrix is small
    return (largest - 1) / (len(vectors) - 1)


def localise(lm: LanguageModel, group: PromptGroup, settings: LocaliseSettings) -> dict[str, Any]:
    """Find the knowledge neurons of a prompt group.

    Returns:
        ``neurons`` as [layer, index] pairs, ``tau``, ``r1_squared`` and ``prompts`` with their targets.

    Raises:
        ValueError: a prompt cannot be tokenised, or its attributions are all zero.
    """
    maps = [attributions(lm, s.prompt, s.target, settings.integral, suffix=s.suffix) for s in group.prompts]
    found = search(maps, settings.search)
    return {
        "neurons": [list(neuron) for neuron in found.neurons],
        "tau": found.sharing,
        "r1_squared": r1_squared(torch.stack([m.flatten() for m in maps])),
        "prompts": [{"prompt": s.prompt, "target": s.target} for s in group.prompts],
    }


def summarise_groups(rows: Sequence[Mapping[str, Any]], layers: int) -> list[dict[str, Any]]:
    """Return one row per task: means over its groups with intervals, and the number of neurons in each layer.

    Args:
        rows: the result of :func:`localise` for each group, with ``task``, ``kind`` and ``failure``.
        layers: number of layers of the model.
    """
    table = []
    for task, members in group_by_task(rows).items():
        good = [row for row in members if row["failure"] is None]
        histogram = Counter(layer for row in good for layer, _ in row["neurons"])
        measures: dict[str, Any] = {}
        if good:
            for name, values in (
                ("neurons", [float(len(row["neurons"])) for row in good]),
                ("tau", [row["tau"] for row in good]),
                ("r1_squared", [row["r1_squared"] for row in good]),
            ):
                estimate = mean_over_cases(values, share=name != "neurons")
                low = None if estimate.low is None else max(0.0, estimate.low)
                measures[name] = {"value": estimate.value, "low": low, "high": estimate.high}
        table.append(
            {
                "task": task,
                "kind": members[0]["kind"],
                "groups": len(good),
                "failed": len(members) - len(good),
                "prompts": sum(len(row["prompts"]) for row in good),
                **measures,
                "layers": [histogram[layer] for layer in range(layers)],
            }
        )
    return table


def neuron_overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the overlap of neurons between tasks: the mean Jaccard index |A & B| / |A | B| over pairs of groups.

    The diagonal averages over pairs of different groups of one task, and is None for a task with a single group.
    """
    sets: dict[str, list[set[Neuron]]] = {}
    for row in rows:
        if row["failure"] is None:
            sets.setdefault(row["task"], []).append({(layer, i) for layer, i in row["neurons"]})
    names = list(sets)

    def jaccard(a: set[Neuron], b: set[Neuron]) -> float:
        return len(a & b) / len(a | b) if a | b else 0.0

    def pairs(a: str, b: str) -> Iterator[tuple[set[Neuron], set[Neuron]]]:
        return itertools.combinations(sets[a], 2) if a == b else itertools.product(sets[a], sets[b])

    def mean(a: str, b: str) -> float | None:
        values = [jaccard(x, y) for x, y in pairs(a, b)]
        return float(np.mean(values)) if values else None

    return {"tasks": names, "jaccard": [[mean(a, b) for b in names] for a in names]}
