"""The update that MEMIT, EMMET and AlphaEdit share: many facts at once, spread over several MLP layers.

The methods optimise for each fact the output z of the last edited block (Meng et al. 2023, "Mass-Editing Memory in a
Transformer", ICLR, section 4.3). Then they edit the layers in turn. With the keys K of all facts, (m, n), and the
residual R at the last block divided by the number of remaining layers, (d, n), the update of a layer is

    W += R (K^T A K + lambda I)^-1 K^T A.

In models with a norm between the MLP and the residual stream, which the papers do not treat, z is optimised at the
output of the MLP of the last layer, before the norm. R is converted to changes of MLP outputs, see
:mod:`~knbench.editors.shared.mlp_contribution`.

The methods differ in the matrix A, (m, m), and in lambda. The system to solve has the size of the number of facts n,
not the width m of the layer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...benchmark.core.progress import Reporter
from ...benchmark.core.schema import SLOT, EditRequest, JsonObject
from ...benchmark.editing import Edit, RestrainsValues, ValueGuard, hyperparameter
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.precision import in_float64
from .contexts import ContextEditor
from .covariance import SecondMoments
from .mlp_contribution import contribution, value_site
from .subject_reader import SubjectReader
from .value_config import CLAMP_HELP, STEPS_HELP, ValueConfig
from .value_vectors import ValueVector, value_vectors

EarlierKeys = Callable[[int], Tensor | None]
"""Returns the keys of earlier edits in a layer, (m, e), or None."""


@dataclass(frozen=True, kw_only=True)
class MultiLayerConfig(ValueConfig):
    """Hyper-parameters of the shared update; those of the value z are inherited from :class:`ValueConfig`."""

    layers: tuple[int, ...] = hyperparameter(
        help="Layers whose MLP output projections are edited, in ascending order, for example 4|5|6."
    )
    ridge: float = hyperparameter(help="Ridge term lambda of the update.")
    steps: int = hyperparameter(25, help=STEPS_HELP)
    clamp: float = hyperparameter(0.75, help=CLAMP_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.layers or min(self.layers) < 0 or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must be one or more, in ascending order, for example 4|5|6")
        if self.ridge < 0:
            raise ValueError("ridge must not be negative")


MultiLayerConfigT = TypeVar("MultiLayerConfigT", bound=MultiLayerConfig)


@dataclass(frozen=True)
class LayerEdits:
    """The update of several layers.

    Attributes:
        edit: the update.
        keys: by layer, the keys K that entered its update, (m, n).
    """

    edit: Edit
    keys: dict[int, Tensor]


class MultiLayerEditor(ContextEditor[MultiLayerConfigT], RestrainsValues):
    """Base class of the methods, which implement :meth:`weighted_keys`."""

    causal_only = True
    needs_subject = True
    lengths = (10,)
    per_length = 5

    def __init__(self, config: MultiLayerConfigT, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.moments = SecondMoments(config.text(seed))

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return up to five layers that end at a quarter of the depth, as in the settings for GPT-J and Llama."""
        last = max(round(0.26 * lm.n_layers), 1)
        return {"layers": tuple(range(max(0, last - 4), last + 1))}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts and compute the second moments of the layers."""
        provenance = super().prepare(lm, reporter)
        provenance = {**provenance, "second_moment": self.moments.prepare(lm, self.config.layers, reporter)}
        prepared = {
            guard.name: {
                str(layers[-1]): self._prepare_guard(guard, lm, layers[-1], reporter) for layers in self.layer_groups()
            }
            for guard in self.value_guards
        }
        return {**provenance, "value_guards": prepared} if prepared else provenance

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the update of all requests, in which each layer takes an equal share of the remaining residual.

        Raises:
            ValueError: a value vector cannot be computed, or the system of a layer cannot be solved.
        """
        return self.edit_layers(lm, requests).edit

    def layer_groups(self) -> Sequence[tuple[int, ...]]:
        """Return the layers in groups that share value vectors. The groups are edited in turn."""
        return [self.config.layers]

    def edit_layers(
        self, lm: LanguageModel, requests: Sequence[EditRequest], earlier: EarlierKeys | None = None
    ) -> LayerEdits:
        """Compute the update of all layers.

        Args:
            lm: the model.
            requests: the requests.
            earlier: returns the keys of earlier edits in a layer. It is called with the layers below edited.

        Raises:
            ValueError: a value vector cannot be computed, or the system of a layer cannot be solved.
        """
        contexts = self.contexts(lm)
        weights: dict[str, Tensor] = {}
        used: dict[int, Tensor] = {}
        residual_norms, losses = [], []
        with ExitStack() as stack:
            for layers in self.layer_groups():
                site = value_site(lm, layers[-1])
                vectors = value_vectors(lm, requests, layers[-1], contexts, self.config.objective, site)
                losses += [[round(x, 6) for x in vector.losses] for vector in vectors]
                targets = torch.stack([self._target(lm, layers[-1], vector) for vector in vectors])  # (n, d)
                reader = SubjectReader(lm, requests, contexts, layers)
                if site == "mlp":
                    start = torch.stack([vector.bare_mlp for vector in vectors])
                    added = contribution(lm, layers[-1], targets) - contribution(lm, layers[-1], start)
                    targets = reader.read(layers[0])[1] + added
                for done, layer in enumerate(layers):
                    keys, outputs = reader.read(layer)  # (n, m), (n, d)
                    used[layer] = keys.T
                    residual = targets - outputs
                    residual_norms.append(float(residual.norm(dim=-1).mean()))
                    old_keys = earlier(layer) if earlier else None
                    share = reader.output_changes(layer, residual / (len(layers) - done))
                    update = self.update(lm, layer, keys.T, share.T, old_keys)
                    name = lm.mlp_weight_name(layer)
                    weight = lm.parameter(name).detach()
                    weights[name] = (weight.float() + lm.as_stored(layer, update)).to(weight.dtype)
                    stack.enter_context(Edit(weights={name: weights[name]}).applied(lm))
        diagnostics = {"losses": losses, "missing": residual_norms}
        return LayerEdits(Edit(weights=weights, diagnostics=diagnostics), used)

    def _target(self, lm: LanguageModel, layer: int, vector: ValueVector) -> Tensor:
        """Return the wanted output of the value's site, (d,): the optimised one, with the MLP's part restrained."""
        change = vector.value - vector.bare_value
        for guard in self.value_guards:
            self._prepare_guard(guard, lm, layer, Reporter())
            change = guard.value(lm, layer, vector.bare_mlp, vector.bare_mlp + change) - vector.bare_mlp
        return vector.bare_value + change if self.value_guards else vector.value

    def _prepare_guard(self, guard: ValueGuard[Any], lm: LanguageModel, layer: int, reporter: Reporter) -> JsonObject:
        def values(requests: Sequence[EditRequest]) -> tuple[Tensor, Tensor]:
            names = [lm.mlp_weight_name(edited) for edited in self.config.layers]
            with Edit(weights={name: lm.unedited(name) for name in names}).applied(lm):
                site = value_site(lm, layer)
                vectors = value_vectors(lm, requests, layer, [SLOT], self.config.objective, site)
            start = torch.stack([vector.bare_mlp for vector in vectors])
            return start, start + torch.stack([vector.value - vector.bare_value for vector in vectors])

        return guard.prepare_values(lm, layer, values, reporter)

    def update(
        self, lm: LanguageModel, layer: int, keys: Tensor, residual: Tensor, earlier: Tensor | None = None
    ) -> Tensor:
        """Return R (K^T A K + lambda I)^-1 K^T A, (d, m), solved in float64 and returned in float32.

        Args:
            lm: the model.
            layer: the layer.
            keys: K, (m, n).
            residual: R, (d, n).
            earlier: keys of earlier edits, (m, e), or None.

        Raises:
            ValueError: A K cannot be computed.
        """
        weighted = self.weighted_keys(lm, layer, keys, earlier)
        update = ridge_update(residual, keys, weighted, self.ridge(keys.shape[1]))
        return update.float().to(residual.device)

    def ridge(self, facts: int) -> float:
        """Return lambda for an update of some number of facts."""
        del facts
        return self.config.ridge

    @abstractmethod
    def weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return A K, (m, n), float64.

        Args:
            lm: the model.
            layer: the layer.
            keys: K, (m, n).
            earlier: keys of earlier edits, (m, e), or None.

        Raises:
            ValueError: A K cannot be computed.
        """


def ridge_update(residual: Tensor, keys: Tensor, weighted: Tensor, ridge: float) -> Tensor:
    """Return R (K^T A K + lambda I)^-1 K^T A, (d, m), float64.

    Args:
        residual: R, (d, n).
        keys: K, (m, n).
        weighted: A K, (m, n), float64.
        ridge: lambda.
    """
    system = in_float64(keys).T @ weighted
    system += ridge * torch.eye(len(system), dtype=system.dtype, device=system.device)
    update: Tensor = in_float64(residual) @ torch.linalg.solve(system, weighted.T)
    return update
