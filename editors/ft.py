"""Fine-tuning one MLP output projection on the new fact alone.

The baseline that Meng et al. 2022 (ROME, appendix E) compare with, after Zhu et al. 2020, "Modifying Memories in
Transformer Models": Adam on W of one layer, the loss being that of the target's tokens and of no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor
from ..benchmark.models.hooks import Side, capture, resume_at, stop_after
from ..benchmark.models.language_model import LanguageModel
from .published import published
from .shared.batches import TargetBatch


@dataclass(frozen=True)
class FineTuningConfig:
    """Hyper-parameters.

    Attributes:
        layer: whose MLP output projection is trained.
        steps: updates at most.
        learning_rate: of Adam.
        stop_below: a loss that ends the training.
        weight_decay: of Adam, pulling the weights to zero.
        epsilon: how far a weight may go from where it started, or None for no bound (L-infinity).
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    stop_below: float = 1e-2
    weight_decay: float = 0.0
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.layer < 0 or self.steps < 1 or self.learning_rate <= 0:
            raise ValueError("layer must be at least 0, steps at least 1, learning_rate above 0")
        if self.weight_decay < 0 or (self.epsilon is not None and self.epsilon <= 0):
            raise ValueError("weight_decay must not be negative, epsilon above 0")


class FineTuning(Editor[FineTuningConfig]):
    """Adam on one weight matrix, on the target tokens of the edited prompts."""

    name = "ft"
    summary = "Fine-tuning of one MLP output projection on the new fact"
    paper = "Zhu et al. 2020, as run by Meng et al. 2022 (NeurIPS)"
    Config = FineTuningConfig
    published = published("ft")

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Take a layer three quarters up, as the published settings for GPT-J and Llama do."""
        return {"layer": round(0.75 * (lm.n_layers - 1))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train a copy of W; what lies below the layer is computed once."""
        config = self.config
        name = lm.mlp_weight_name(config.layer)
        lesson = TargetBatch.of(lm, requests)
        below: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(config.layer), "input")}
        with torch.no_grad(), capture(below) as seen, stop_after(lm, config.layer), lesson.selected(lm):
            lm.model(**lesson.inputs)
        start = lm.parameter(name).detach()
        weight = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([weight], lr=config.learning_rate, weight_decay=config.weight_decay)
        losses: list[float] = []
        with resume_at(lm, config.layer, seen["x"]), lesson.selected(lm):
            for _ in range(config.steps):
                logits = functional_call(lm.model, {name: weight}, kwargs=lesson.inputs).logits
                loss = lesson.loss(logits)
                losses.append(float(loss.detach()))
                if losses[-1] < config.stop_below:
                    break
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if config.epsilon is not None:
                    with torch.no_grad():
                        weight.clamp_(start - config.epsilon, start + config.epsilon)
        return Edit(weights={name: weight.detach()}, diagnostics={"losses": [round(x, 6) for x in losses]})


@dataclass(frozen=True)
class BoundedConfig(FineTuningConfig):
    """Fine-tuning with a bound on every weight's way."""

    epsilon: float | None = 5e-4


class BoundedFineTuning(FineTuning):
    """Fine-tuning in which no weight may go further than epsilon from its start (FT-L, FT-constrained)."""

    name = "ft-l"
    summary = "Fine-tuning with every weight kept near its start (L-infinity)"
    Config = BoundedConfig
    published = published("ft-l")


@dataclass(frozen=True)
class DecayedConfig(FineTuningConfig):
    """Fine-tuning with weight decay."""

    weight_decay: float = 5e-4


class DecayedFineTuning(FineTuning):
    """Fine-tuning with weight decay (FT+WD)."""

    name = "ft-w"
    summary = "Fine-tuning with weight decay"
    Config = DecayedConfig
