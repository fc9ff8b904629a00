"""FT-M: fine-tuning of one MLP output projection on the target tokens, one request after the other.

Zhang et al. 2024, "A Comprehensive Study of Knowledge Editing for Large Language Models". EasyEdit calls
its objective ``target_new``. For a mini-batch B of requests with prompts p and target tokens t_1 .. t_T, Adam minimises
over W of one layer

    L = mean_B (1 / T) sum_j -log P(t_j | p, t_1 .. t_(j-1)).

A mini-batch with L below a bound makes no step. The training stops after an epoch whose mean loss is below the bound.
One optimiser is used for all epochs, and the order of the requests is kept.

Differences from released code: EasyEdit pads on the left without position ids, which shifts the absolute positions of
GPT-2 when a mini-batch has requests of several lengths; here padding has no effect. EasyEdit's ``prompt_last``, which
the shipped settings name, predicts all target tokens at the last position of the prompt; this is another method. It is
called FT-L there, and differs from ``ft-l``, which bounds the change of each weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.published import published
from .shared.training import TrainingConfig, in_order, train


@dataclass(frozen=True, kw_only=True)
class MaskedFineTuningConfig(TrainingConfig):
    """Hyper-parameters of FT-M."""

    layer: int = hyperparameter(help="Layer whose MLP output projection is trained.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer < 0:
            raise ValueError("layer must be at least 0")


class MaskedFineTuning(Editor[MaskedFineTuningConfig]):
    """Fine-tuning with a loss that masks the prompt, in mini-batches."""

    name = "ft-m"
    summary = "Fine-tuning of one MLP output projection on the target tokens, in mini-batches"
    paper = "Zhang et al. 2024, A Comprehensive Study of Knowledge Editing for LLMs"
    Config = MaskedFineTuningConfig
    published = published("ft-m")

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at three quarters of the depth, as in the published settings for GPT-J and Llama."""
        return {"layer": round(0.75 * (lm.n_layers - 1))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train a copy of W on the mini-batches of the requests.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or a loss is not finite.
        """
        config = self.config
        name = lm.mlp_weight_name(config.layer)
        batch = TargetBatch.of(lm, requests)
        start = {name: lm.parameter(name)}
        trained = train(lm, batch, start, config.layer, config, in_order(len(requests)))
        losses = [round(loss, 6) for loss in trained.epoch_losses]
        return Edit(weights=trained.weights, diagnostics={"losses": losses})
