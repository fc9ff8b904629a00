"""CrispEdit: fine-tuning in directions in which the loss on text has a low curvature.

"CrispEdit" (arXiv 2602.15823). For the MLP output projections of a few layers, A = E[h h^T] and B = E[g g^T] over
text approximate the curvature of the loss. In the eigenbases of both, direction (i, j) has the curvature b_i a_j. The
directions with the largest products, which hold a share e of their sum, are protected. The gradient G of the loss on
the new facts is projected before each step:

    G~ = U_B (Q * (U_B^T G U_A)) U_A^T,    Q_ij = 1 if b_i a_j < tau else 0.

The loss is the mean negative log-likelihood over the target tokens of a mini-batch. Mini-batches are reshuffled in
each epoch, and bounds of the loss end the training as in :mod:`~knbench.editors.locft`.

In a sequence, training continues on the current weights with the moments of Adam. After a chunk of edits, A and B are
computed again on the edited model, and the first moment is projected: with ``renewed``, over the text and up to 1,000
earlier edits; with ``average``, over the edits of the chunk, averaged with the earlier ones by the number of tokens.

Differences from released code: the text is sampled from the model by default. Adam divides every entry by its own
scale, hence steps leave the allowed directions, in the released code as well; with ``sgd`` they do not. Eigenvectors
are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject, derived_seed
from ..benchmark.editing import Edit, Editor, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import TargetBatch
from .shared.covariance import SELF, Corpus, SecondMoments
from .shared.curvature import Curvature, moments
from .shared.published import published
from .shared.training import TrainingConfig, shuffled, train

MAX_EARLIER = 1000
"""Number of earlier edits that renewed statistics read at most, the most recent ones."""

FACTORS = ("input_values", "input_vectors", "output_values", "output_vectors")
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class CrispEditConfig(TrainingConfig):
    """Hyper-parameters of CrispEdit."""

    layers: tuple[int, ...] = hyperparameter(
        help="Layers whose MLP output projections are trained, in ascending order, for example 18|19|20."
    )
    batch_size: int = hyperparameter(32, help="Number of requests per optimisation step.")
    energy: float = hyperparameter(
        0.9, help="Share e of the curvature that is protected. 0 protects one direction, 1 all of them."
    )
    optimiser: Literal["adam", "sgd"] = hyperparameter("adam", help="Optimiser that receives the projected gradient.")
    statistics: Literal["average", "renewed"] = hyperparameter(
        "average",
        help="Curvature after a chunk of sequential edits. average: the chunk's is averaged with the earlier one; "
        "renewed: computed again over the text and the earlier edits, which costs a pass over the text.",
    )
    chunk: int = hyperparameter(100, help="Number of sequential edits after which the curvature is updated.")
    corpus: str = hyperparameter(
        SELF, help="Text for the curvature: self (sampled from the model), a text file, datasets:NAME."
    )
    texts: int = hyperparameter(100, help="Number of texts.")
    corpus_length: int = hyperparameter(128, help="Tokens per text.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or min(self.layers) < 0 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must be one or more, in ascending order, for example 18|19|20")
        if not 0 <= self.energy <= 1 or self.chunk < 1 or self.texts < 1:
            raise ValueError("energy must be between 0 and 1, chunk and texts at least 1")
        self.text(seed=0)  # the constructor validates the values

    def text(self, seed: int) -> Corpus:
        """Return the corpus; the seed determines the text that is sampled from the model."""
        return Corpus(self.corpus, self.texts * self.corpus_length, self.corpus_length, seed)


class CrispEdit(Editor[CrispEditConfig]):
    """Fine-tuning with projections on directions of low curvature."""

    name = "crispedit"
    summary = "Fine-tuning of several layers in directions that change the loss on text little"
    paper = "CrispEdit, arXiv 2602.15823"
    Config = CrispEditConfig
    published = published("crispedit")
    causal_only = True

    def __init__(self, config: CrispEditConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.replays = config.statistics == "renewed"  # reads the earlier requests again
        # Keyed by model: the curvature of one model must not be used for another.
        self._start: WeakKeyDictionary[LanguageModel, State] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return up to five layers from six tenths of the depth on, as in the published settings for Llama-3."""
        first = round(0.6 * lm.n_layers)
        return {"layers": tuple(range(first, min(first + 5, lm.n_layers)))}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute the curvature over the text.

        Raises:
            KnbenchError: the corpus cannot be read or is too short.
        """
        self._first_state(lm, reporter)
        config = self.config
        return {"curvature": {"corpus": config.corpus, "texts": config.texts, "length": config.corpus_length}}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Train copies of the matrices on all requests, the first edit of a sequence.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or a loss is not finite.
        """
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Train copies of the current matrices on the new requests, with the curvature and the moments of the state.

        Raises:
            ValueError: see :meth:`edit`, or the state of the earlier edits is missing.
        """
        if earlier and state is None:
            raise ValueError("the curvature of the earlier edits is missing; pass the state of the previous edit")
        state = self._first_state(lm, Reporter()) if state is None else state
        if state.settings["edits"] >= self.config.chunk:
            state = self._updated(lm, state, earlier)
        curvatures = _curvatures(state)
        allowed = {name: curvature.allowed(self.config.energy) for name, curvature in curvatures.items()}
        layer_of = {lm.mlp_weight_name(layer): layer for layer in self.config.layers}

        def project(name: str, gradient: Tensor) -> Tensor:
            layer = layer_of[name]
            projected = curvatures[name].project(lm.as_stored(layer, gradient), allowed[name])
            return lm.as_stored(layer, projected).contiguous()

        optimisers: list[torch.optim.Optimizer] = []

        def make_optimiser(tensors: list[Tensor]) -> torch.optim.Optimizer:
            optimisers.append(self._optimiser(tensors, state, list(layer_of)))
            return optimisers[0]

        trained = train(
            lm,
            TargetBatch.of(lm, requests),
            {name: lm.parameter(name) for name in layer_of},
            self.config.layers[0],
            self.config,
            shuffled(len(requests), derived_seed(self.seed, self.name, "order")),
            loss="tokens",
            make_optimiser=make_optimiser,
            project=project,
        )
        diagnostics = {
            "losses": [round(loss, 6) for loss in trained.epoch_losses],
            "allowed": [round(float(mask.float().mean()), 6) for mask in allowed.values()],
        }
        settings = {**state.settings, "edits": state.settings["edits"] + len(requests)}
        after = State({**state.tensors, **_moments_of(optimisers[0], list(layer_of))}, settings)
        return Edit(weights=trained.weights, diagnostics=diagnostics, state=after)

    def _modules(self, lm: LanguageModel) -> dict[str, nn.Module]:
        return {lm.mlp_weight_name(layer): lm.mlp_out(layer) for layer in self.config.layers}

    def _first_state(self, lm: LanguageModel, reporter: Reporter) -> State:
        """Return the state before the first edit: the text and its curvature, computed once per model."""
        if lm not in self._start:
            rows = SecondMoments(self.config.text(self.seed)).rows(lm, reporter)
            found = moments(lm, self._modules(lm), rows, ())
            tensors: dict[str, Tensor] = {"text": rows}
            for name, value in found.items():
                tensors.update(_tensors(name, value.curvature()))
            tokens = next(iter(found.values())).tokens
            self._start[lm] = State(tensors, {"edits": 0, "tokens": tokens})
        return self._start[lm]

    def _updated(self, lm: LanguageModel, state: State, earlier: Sequence[EditRequest]) -> State:
        """Return the state with the curvature after a chunk of edits, and with projected first moments of Adam."""
        renewed = self.config.statistics == "renewed"
        rows = state.tensors["text"] if renewed else state.tensors["text"][:0]
        count = MAX_EARLIER if renewed else state.settings["edits"]
        found = moments(lm, self._modules(lm), rows, earlier[-count:])
        tensors = dict(state.tensors)
        tokens = 0
        for layer in self.config.layers:
            name = lm.mlp_weight_name(layer)
            total = found[name]
            if not renewed:
                inputs, outputs = _curvatures(state)[name].matrices()
                old = state.settings["tokens"]
                total = replace(
                    total,
                    inputs=total.inputs + old * inputs,
                    outputs=total.outputs + old * outputs,
                    tokens=total.tokens + old,
                )
            tokens = total.tokens
            curvature = total.curvature()
            tensors.update(_tensors(name, curvature))
            if (key := f"{name}/exp_avg") in tensors:
                first = lm.as_stored(layer, tensors[key])
                projected = curvature.project(first, curvature.allowed(self.config.energy))
                tensors[key] = lm.as_stored(layer, projected).contiguous()
        return State(tensors, {**state.settings, "edits": 0, "tokens": tokens})

    def _optimiser(self, tensors: list[Tensor], state: State, names: Sequence[str]) -> torch.optim.Optimizer:
        config = self.config
        values: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        if config.optimiser == "sgd":
            return torch.optim.SGD(tensors, **values)
        optimiser = torch.optim.Adam(tensors, **values)
        for name, tensor in zip(names, tensors, strict=True):
            if f"{name}/step" in state.tensors:
                stored = {key: state.tensors[f"{name}/{key}"].clone() for key in (*ADAM_MOMENTS, "step")}
                optimiser.state[tensor] = stored
        return optimiser


def _tensors(name: str, curvature: Curvature) -> dict[str, Tensor]:
    return {f"{name}/{factor}": getattr(curvature, factor) for factor in FACTORS}


def _curvatures(state: State) -> dict[str, Curvature]:
    """Return the curvature by weight."""
    names = [key.rpartition("/")[0] for key in state.tensors if key.endswith("/input_values")]
    return {name: Curvature(*(state.tensors[f"{name}/{factor}"] for factor in FACTORS)) for name in names}


def _moments_of(optimiser: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the moments and the number of steps of Adam by weight; SGD, and Adam without a step, have none."""
    found = {}
    for name, tensor in zip(names, optimiser.param_groups[0]["params"], strict=True):
        values = optimiser.state.get(tensor, {})
        found.update({f"{name}/{key}": values[key].detach() for key in (*ADAM_MOMENTS, "step") if key in values})
    return found
