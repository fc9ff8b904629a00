"""LoRA: fine-tuning of low-rank updates of the attention projections on the new fact alone, with peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR), used as an editing baseline.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.published import published


@dataclass(frozen=True)
class LoraEditConfig:
    """Hyper-parameters of LoRA."""

    rank: int = hyperparameter(8, help="Rank of each update.")
    alpha: int = hyperparameter(32, help="Scale of the updates: each is multiplied by alpha / rank.")
    steps: int = hyperparameter(70, help="Maximum number of optimisation steps.")
    learning_rate: float = hyperparameter(5e-3, help="Learning rate of Adam.")
    stop_below: float = hyperparameter(1e-2, help="Loss below which the training stops.")
    targets: tuple[str, ...] | None = hyperparameter(
        None, help="Names of the modules that get an update, or none for peft's default for the architecture."
    )

    def __post_init__(self) -> None:
        if self.rank < 1 or self.steps < 1 or self.learning_rate <= 0:
            raise ValueError("rank and steps must be at least 1, learning_rate above 0")


class Lora(Editor[LoraEditConfig]):
    """Low-rank adaptation, merged into the weights."""

    name = "lora"
    summary = "Fine-tuning of low-rank updates of the attention on the new fact (peft)"
    paper = "Hu et al. 2022 (ICLR)"
    Config = LoraEditConfig
    published = published("lora")

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train adapters on a copy of the model that shares its weights, and merge them into new weights.

        Raises:
            ValueError: peft has no default modules for the architecture, or the named modules do not exist, or a
                target cannot be tokenised after its prompt.
        """
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        config = self.config
        batch = TargetBatch.of(lm, requests)
        # Copy the modules and share the tensors: peft replaces modules of the copy, and the model stays unchanged.
        tensors = {id(t): t for t in [*lm.model.parameters(), *lm.model.buffers()]}
        adapted: nn.Module = copy.deepcopy(lm.model, tensors)
        lora_config = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.targets) if config.targets else None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns that it detected GPT-2's transposed layers
            adapted = inject_adapter_in_model(lora_config, adapted)
        trainable = [p for p in adapted.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trainable, lr=config.learning_rate)
        losses: list[float] = []
        head: Any = adapted.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][batch.rows, batch.columns], *args[1:]))
        for _ in range(config.steps):
            loss = batch.loss(adapted(**batch.inputs).logits)
            losses.append(float(loss.detach()))
            if losses[-1] < config.stop_below:
                break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        hook.remove()
        weights = {}
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                base: Any = module.get_base_layer()
                weight = base.weight.detach()
                with torch.no_grad():
                    delta = module.get_delta_weight("default")
                weights[lm.name_of(base.weight)] = (weight.float() + delta.float()).to(weight.dtype)
        return Edit(weights=weights, diagnostics={"losses": [round(x, 6) for x in losses]})
