"""Thresholds of memories, from tuning cases. Runs exclude these cases, see :mod:`knbench.benchmark.core.split`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, zip_longest

import torch
from torch import Tensor

from ...benchmark.core.schema import EditRequest, Probe
from ...benchmark.models.language_model import LanguageModel
from .warm_up import tuning_cases

INSIDE = ("paraphrase",)
"""Criteria whose prompts ask for an edited fact in other words."""
OUTSIDE = ("neighbourhood", "unrelated")
"""Criteria whose prompts ask for other facts."""


@dataclass(frozen=True)
class ScopeCase:
    """A request with prompts to which the new fact applies, and prompts to which it does not."""

    request: EditRequest
    inside: tuple[Probe, ...]
    outside: tuple[Probe, ...]


def scope_cases(lm: LanguageModel, tasks: Sequence[str], count: int) -> list[ScopeCase]:
    """Return tuning cases of some tasks, in turn, at most ``count``.

    Cases that the model cannot tokenise, or that lack one of the two kinds of prompts, are left out.

    Args:
        lm: the model.
        tasks: names of tasks of facts.
        count: maximum number of cases.

    Raises:
        KnbenchError: a task does not exist.
    """
    found = [tuning_cases(name) for name in tasks]
    cases: list[ScopeCase] = []
    for case in chain.from_iterable(zip_longest(*found)):
        if case is None or len(cases) == count:
            continue
        completions = [p for p in case.probes if p.kind == "completion"]
        inside = tuple(p for p in completions if p.criterion in INSIDE and _is_readable(lm, p.prompt, p.target))
        outside = tuple(p for p in completions if p.criterion in OUTSIDE and _is_readable(lm, p.prompt, p.target))
        if inside and outside and _is_readable(lm, case.request.text, case.request.target_new):
            cases.append(ScopeCase(case.request, inside, outside))
    return cases


def best_threshold(inside: Sequence[float], outside: Sequence[float]) -> tuple[float, float]:
    """Return the threshold with the best balanced accuracy, and this accuracy. Scores at or above it count as inside.

    The threshold lies in the middle between two neighbouring scores. Of several, the highest is taken, which lets the
    fewest other prompts in.

    Raises:
        ValueError: one of the two lists is empty.

    >>> best_threshold([0.9, 0.7, 0.4], [0.1, 0.3])
    (0.35, 1.0)
    """
    if not inside or not outside:
        raise ValueError("a threshold needs scores of prompts inside and outside of the scope")
    scores = sorted({*inside, *outside})
    middles = [(a + b) / 2 for a, b in pairwise(scores)] or [scores[0]]
    positive, negative = torch.tensor(inside, dtype=torch.float64), torch.tensor(outside, dtype=torch.float64)

    def accuracy(threshold: float) -> float:
        return float((positive >= threshold).double().mean() + (negative < threshold).double().mean()) / 2

    best = max(middles, key=lambda t: (accuracy(t), t))
    return best, accuracy(best)


def low_quantile(keys: Tensor, share: float) -> float:
    """Return a quantile of the distances between different rows of a matrix.

    Args:
        keys: rows, (n, d), at least two.
        share: the quantile, between 0 and 1.

    Raises:
        ValueError: there are less than two rows.
    """
    if len(keys) < 2:
        raise ValueError("distances need at least two keys")
    return float(torch.pdist(keys.double()).quantile(share))


def _is_readable(lm: LanguageModel, prompt: str, target: str) -> bool:
    try:
        lm.token_queries(prompt, target, ".")
    except ValueError:
        return False
    return True
