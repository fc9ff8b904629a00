"""LocFT-BF: fine-tuning of one MLP output projection on all edits at once, in reshuffled mini-batches.

Yang et al. 2025, "Fine-tuning Done Right in Model Editing" (arXiv 2509.22072). The training is breadth first: every
epoch passes over all edits in a new random order, instead of finishing one edit before the next (depth first). The loss
of a mini-batch B of requests with prompts p, target tokens t_1 .. t_T and the end-of-text token t_(T+1) is

    L = mean_B (1 / (T + 1)) sum_j -log P(t_j | p, t_1 .. t_(j-1)).

Adam minimises it over W of one layer. A mini-batch with L below a bound makes no step; the training stops after an
epoch whose mean loss is below the bound.

LocFT-BF is a batch method. In a sequence it starts from the unedited W at each edit and trains on all earlier requests
and the new one, hence it replays: it sees old facts again, and its cost grows with their number.

Differences from released code: the released code adds a padding token and a row of embeddings for it, which enters
every softmax, and pads on the left without position ids, which shifts the absolute positions of GPT-2. Here padding has
no effect. A masked model, which reads the end of the sentence, has no end-of-text token in its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.core.schema import EditRequest, derived_seed
from ..benchmark.editing import Edit, Editor, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.published import published
from .shared.training import TrainingConfig, shuffled, train


@dataclass(frozen=True, kw_only=True)
class LocalisedFineTuningConfig(TrainingConfig):
    """Hyper-parameters of LocFT-BF."""

    layer: int = hyperparameter(help="Layer whose MLP output projection is trained.")
    batch_size: int = hyperparameter(100, help="Number of requests per optimisation step.")
    end_of_text: bool = hyperparameter(True, help="Whether a causal model is trained to end the text after the target.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer < 0:
            raise ValueError("layer must be at least 0")


class LocalisedFineTuning(Editor[LocalisedFineTuningConfig]):
    """Breadth-first fine-tuning of one MLP output projection."""

    name = "locft"
    summary = "Fine-tuning of one MLP output projection on all edits, earlier ones included"
    paper = "Yang et al. 2025, Fine-tuning Done Right in Model Editing"
    Config = LocalisedFineTuningConfig
    published = published("locft")
    replays = True

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at seven tenths of the depth, as in the published settings for Llama-3."""
        return {"layer": round(0.7 * (lm.n_layers - 1))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train a copy of the unedited W on all requests.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, the tokenizer has no end-of-text token, or a loss
                is not finite.
        """
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Train a copy of the unedited W on the earlier and the new requests.

        Raises:
            ValueError: see :meth:`edit`.
        """
        del state
        config = self.config
        name = lm.mlp_weight_name(config.layer)
        everything = [*earlier, *requests]
        batch = TargetBatch.of(lm, everything, end_of_text=config.end_of_text)
        orders = shuffled(len(everything), derived_seed(self.seed, self.name, "order"))
        trained = train(lm, batch, {name: lm.unedited(name)}, config.layer, config, orders)
        losses = [round(loss, 6) for loss in trained.epoch_losses]
        return Edit(weights=trained.weights, diagnostics={"losses": losses, "requests": len(everything)})
