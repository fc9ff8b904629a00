"""LoRA: fine-tuning of low-rank updates of the attention projections on the new fact alone, through peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR), as an editing baseline.
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
from ..benchmark.editing import Edit, Editor
from ..benchmark.models.language_model import LanguageModel
from .published import published
from .shared.batches import TargetBatch


@dataclass(frozen=True)
class LoraEditConfig:
    """Hyper-parameters.

    Attributes:
        rank: of each update.
        alpha: the update is scaled by alpha / rank.
        steps: updates at most.
        learning_rate: of Adam.
        stop_below: a loss that ends the training.
        targets: names of the modules that get an update; None takes what peft knows for the architecture.
    """

    rank: int = 8
    alpha: int = 32
    steps: int = 70
    learning_rate: float = 5e-3
    stop_below: float = 1e-2
    targets: tuple[str, ...] | None = None

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
        """Train adapters on a copy of the model that shares its weights, and merge them.

        Raises:
            ValueError: peft knows no modules for the architecture, or the named ones do not exist.
        """
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer

        config = self.config
        lesson = TargetBatch.of(lm, requests)
        # The modules are copied and the tensors are not: peft rebuilds the copy, and the model stays as it is.
        shared = {id(t): t for t in [*lm.model.parameters(), *lm.model.buffers()]}
        student: nn.Module = copy.deepcopy(lm.model, shared)
        wanted = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=list(config.targets) if config.targets else None,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft tells that it recognised GPT-2's transposed layers
            student = inject_adapter_in_model(wanted, student)
        trained = [p for p in student.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=config.learning_rate)
        losses: list[float] = []
        head: Any = student.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][lesson.rows, lesson.columns], *args[1:]))
        for _ in range(config.steps):
            loss = lesson.loss(student(**lesson.inputs).logits)
            losses.append(float(loss.detach()))
            if losses[-1] < config.stop_below:
                break
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        hook.remove()
        weights = {}
        for module in student.modules():
            if isinstance(module, LoraLayer):
                base: Any = module.get_base_layer()
                weight = base.weight.detach()
                with torch.no_grad():
                    delta = module.get_delta_weight("default")
                weights[lm.name_of(base.weight)] = (weight.float() + delta.float()).to(weight.dtype)
        return Edit(weights=weights, diagnostics={"losses": [round(x, 6) for x in losses]})
