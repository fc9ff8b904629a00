"""FT, FT-L and FT-W: fine-tuning of one MLP output projection on the new fact alone.

Meng et al. 2022 (ROME, appendix E) compare with this baseline, after Zhu et al. 2020, "Modifying Memories in
Transformer Models". Adam optimises W of one layer. The loss is that of the target tokens and of no others, the mean
over requests of the mean over tokens.

Differences from released code: each target token is predicted after the true previous ones (``target_new`` in
EasyEdit). The code of Meng et al. and EasyEdit's ``prompt_last`` predict all target tokens at the last position of the
prompt, and the former counts the padding of shorter targets as target tokens. For GPT-2 and GPT-J the code of Meng et
al. trains the bias of the projection as well; here W alone is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.hooks import Side, capture, resume_at, stop_after
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.published import published

WEIGHT_DECAY_HELP = "Weight decay of Adam, which pulls the weights towards zero."
EPSILON_HELP = "Bound on the change of each weight (L-infinity norm), or none for no bound."


@dataclass(frozen=True)
class FineTuningConfig:
    """Hyper-parameters of FT."""

    layer: int = hyperparameter(help="Layer whose MLP output projection is trained.")
    steps: int = hyperparameter(25, help="Maximum number of optimisation steps.")
    learning_rate: float = hyperparameter(5e-4, help="Learning rate of Adam.")
    stop_below: float = hyperparameter(1e-2, help="Loss below which the training stops.")
    weight_decay: float = hyperparameter(0.0, help=WEIGHT_DECAY_HELP)
    epsilon: float | None = hyperparameter(None, help=EPSILON_HELP)

    def __post_init__(self) -> None:
        if self.layer < 0 or self.steps < 1 or self.learning_rate <= 0:
            raise ValueError("layer must be at least 0, steps at least 1, learning_rate above 0")
        if self.weight_decay < 0 or (self.epsilon is not None and self.epsilon <= 0):
            raise ValueError("weight_decay must not be negative, epsilon above 0")


class FineTuning(Editor[FineTuningConfig]):
    """Trains one weight matrix with Adam on the target tokens of the edited prompts."""

    name = "ft"
    summary = "Fine-tuning of one MLP output projection on the new fact"
    paper = "Zhu et al. 2020, as run by Meng et al. 2022 (NeurIPS)"
    Config = FineTuningConfig
    published = published("ft")

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at three quarters of the depth, as in the published settings for GPT-J and Llama."""
        return {"layer": round(0.75 * (lm.n_layers - 1))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train a copy of W on all requests. The layers below are computed once.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        config = self.config
        name = lm.mlp_weight_name(config.layer)
        batch = TargetBatch.of(lm, requests)
        block_input: dict[str, tuple[nn.Module, Side]] = {"x": (lm.block(config.layer), "input")}
        with (
            torch.no_grad(),
            capture(block_input) as captured,
            stop_after(lm, config.layer),
            batch.target_logits_only(lm),
        ):
            lm.model(**batch.inputs)
        start = lm.parameter(name).detach()
        weight = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([weight], lr=config.learning_rate, weight_decay=config.weight_decay)
        losses: list[float] = []
        with resume_at(lm, config.layer, captured["x"]), batch.target_logits_only(lm):
            for _ in range(config.steps):
                logits = functional_call(lm.model, {name: weight}, kwargs=batch.inputs).logits
                loss = batch.loss(logits)
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
    """Hyper-parameters of FT-L: those of FT, with a bound by default."""

    epsilon: float | None = hyperparameter(5e-4, help=EPSILON_HELP)


class BoundedFineTuning(FineTuning):
    """Fine-tuning that keeps each weight within epsilon of its original value (FT-L, also FT-constrained)."""

    name = "ft-l"
    summary = "Fine-tuning with every weight kept near its start (L-infinity)"
    Config = BoundedConfig
    published = published("ft-l")


@dataclass(frozen=True)
class DecayedConfig(FineTuningConfig):
    """Hyper-parameters of FT-W: those of FT, with weight decay by default."""

    weight_decay: float = hyperparameter(5e-4, help=WEIGHT_DECAY_HELP)


class DecayedFineTuning(FineTuning):
    """Fine-tuning with weight decay (FT+WD)."""

    name = "ft-w"
    summary = "Fine-tuning with weight decay"
    Config = DecayedConfig
