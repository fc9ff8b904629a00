"""Where facts and grammatical rules seem to sit: the knowledge neurons of relations and of paradigms, side by side.

Niu et al. 2024, section 4: prompts that ask for the same thing are searched together, and three measures tell how well
localised it is: how many neurons are found, which share of the prompts had to agree (tau), and how alike the prompts'
attributions are (R1^2). They are computed in the same way, from as many prompts, for facts and for phenomena.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.schema import Case, EditRequest, Support, Task, derived_seed
from ..models.attribution import Integral, Neuron, Search, attributions, search
from ..models.language_model import LanguageModel
from ..scoring.intervals import mean_over_cases
from .base import by_task

FEW_WORDS = 10
"""A paradigm with no more target words, or cues, than these is searched by them."""


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that ask for the same thing: a fact in its wordings, or a paradigm with one target word or one cue."""

    name: str
    prompts: tuple[Support, ...]


@dataclass(frozen=True)
class LocaliseSettings:
    """How groups are made and searched.

    Attributes:
        prompts: prompts of a group; as many for facts as for phenomena, since R1^2 depends on their number.
        groups: groups of a task at most.
        seed: decides which groups and which prompts, where there are more.
    """

    prompts: int = 9
    groups: int = 5
    seed: int = 0
    integral: Integral = field(default_factory=Integral)
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.groups < 1:
            raise ValueError("prompts must be at least 2 and groups at least 1")


def groups_of(task: Task, cases: Sequence[Case], settings: LocaliseSettings) -> list[PromptGroup]:
    """Sort a task's prompts into groups, each with the same number of prompts.

    A fact's group are its wordings. A phenomenon's are the prompts with one target word where it has few of them
    (himself, herself), with one cue where it has few of those (this, these), else a case with its support.
    """
    facts = task.kind == "fact"
    found = {case.request.text: _prompts(case.request) for case in cases} if facts else _by_word(cases)
    size = settings.prompts
    candidates = []
    for name, prompts in found.items():
        ordered = sorted(prompts, key=lambda s: derived_seed(settings.seed, "prompt", s.prompt, s.target))
        for number in range(len(ordered) // size):  # a word that many prompts have gives several groups
            chosen = tuple(ordered[number * size : (number + 1) * size])
            place = derived_seed(settings.seed, "group", task.name, name)
            candidates.append((number, place, PromptGroup(name if number == 0 else f"{name} #{number + 1}", chosen)))
    candidates.sort(key=lambda c: c[:2])
    return sorted((group for _, _, group in candidates[: settings.groups]), key=lambda group: group.name)


def _prompts(request: EditRequest) -> list[Support]:
    shown = [Support(request.text, request.target_true), *request.support]
    return [s for s in dict.fromkeys(shown) if s.target == request.target_true] or shown


def _by_word(cases: Sequence[Case]) -> dict[str, list[Support]]:
    for key in ("target_true", "subject"):
        words: dict[str, list[Support]] = {}
        for case in cases:
            asked = Support(case.request.text, case.request.target_true)
            words.setdefault(getattr(case.request, key), []).append(asked)
        if len(words) <= FEW_WORDS:
            return {word: list(dict.fromkeys(prompts)) for word, prompts in words.items()}
    return {
        case.request.text: [Support(case.request.text, case.request.target_true), *case.request.support]
        for case in cases
    }


def r1_squared(vectors: Tensor) -> float:
    """Return how alike directions are: 1 if all are the same, 0 if each is orthogonal to all others.

    (s1^2 - 1) / (n - 1), with s1 the largest singular value of the matrix of unit vectors; of two vectors it is the
    absolute cosine of their angle.

    Args:
        vectors: (n, features), n at least 2, none zero.

    Raises:
        ValueError: fewer than two vectors, or one without a direction.
    """
    if len(vectors) < 2:
        raise ValueError("R1^2 needs at least two vectors")
    wide = vectors.double()
    norms = wide.norm(dim=1, keepdim=True)
    if bool((norms == 0).any()):
        raise ValueError("a vector of zeros has no direction")
    unit = wide / norms
    largest = float(torch.linalg.eigvalsh(unit @ unit.T)[-1])  # s1^2: n is small, the features are many
    return (largest - 1) / (len(vectors) - 1)


def localise(lm: LanguageModel, group: PromptGroup, settings: LocaliseSettings) -> dict[str, Any]:
    """Search a group's neurons.

    Returns:
        The neurons, the sharing fraction tau at which the search stopped, R1^2, and the prompts.

    Raises:
        ValueError: a prompt cannot be tokenised, or attributes nothing to any neuron.
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
    """Return one row per task: means over its groups with intervals, and how many neurons each layer has.

    Args:
        rows: what :func:`localise` gave for each group, with ``task`` and ``kind``; failed ones have ``failure``.
        layers: number of layers of the model.
    """
    table = []
    for task, members in by_task(rows).items():
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


def overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many neurons the groups of two tasks share: the mean of |A and B| / |A or B| over pairs of groups.

    On the diagonal stand pairs of different groups of one task.
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


def describe(settings: LocaliseSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    return asdict(settings)
