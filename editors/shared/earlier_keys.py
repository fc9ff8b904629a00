"""Protection of earlier edits in a sequence: their keys count as keys of text in the next update.

In the update of :mod:`~knbench.editors.shared.multi_layer`, a method has some matrix A = B for the first edit, for
example B = C^-1. With the keys K_E of all earlier edits, (m, e), it has

    A = (B^-1 + K_E K_E^T / lambda)^-1 = B - B K_E (lambda I + K_E^T B K_E)^-1 K_E^T B

by the Woodbury identity. The second form also holds for a projection B, which has no inverse.

Every edit reads the keys of its own facts once and adds them to the state. The number of forward passes of an edit and
the size of the state do not grow with the number of edits, except that the state has one column per fact up to m.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ...benchmark.core.schema import EditRequest
from ...benchmark.editing import Edit, State
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.precision import in_float64
from .multi_layer import MultiLayerConfigT, MultiLayerEditor
from .subject_reader import SubjectReader


class ProtectingEditor(MultiLayerEditor[MultiLayerConfigT]):
    """Base class of the methods, which implement :meth:`first_weighted_keys`.

    Attributes:
        stored_keys: the keys that an edit stores: ``after`` it, read on the model with all layers edited, or those that
            were ``used`` in the update of each layer.
    """

    stored_keys: ClassVar[Literal["after", "used"]] = "after"

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the update of all requests, the first one of a sequence.

        Raises:
            ValueError: a value vector cannot be computed, or the system of a layer cannot be solved.
        """
        return self.edit_next(lm, requests, ())

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Compute an update that protects the keys of earlier edits. The state contains them, by layer.

        Raises:
            ValueError: see :meth:`edit`, or the state lacks keys of earlier edits.
        """
        stored = {} if state is None else state.tensors
        missing = [layer for layer in self.config.layers if str(layer) not in stored]
        if earlier and missing:
            raise ValueError(f"the state has no keys of layer {missing[0]}; pass the state of the previous edit")
        edits = self.edit_layers(lm, requests, lambda layer: stored.get(str(layer)))
        keys = edits.keys if self.stored_keys == "used" else self.keys_after(lm, requests, edits.edit)
        tensors = {str(layer): joined(stored.get(str(layer)), new) for layer, new in keys.items()}
        return replace(edits.edit, state=State(tensors))

    def keys_after(self, lm: LanguageModel, requests: Sequence[EditRequest], edit: Edit) -> dict[int, Tensor]:
        """Return the keys of requests in each layer after an edit, (m, n)."""
        with edit.applied(lm):
            reader = SubjectReader(lm, requests, self.contexts(lm), self.config.layers)
            return {layer: reader.read(layer)[0].T for layer in self.config.layers}

    def weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return A K, (m, n), float64.

        Raises:
            ValueError: B K cannot be computed.
        """
        weighted = self.first_weighted_keys(lm, layer, keys)
        if earlier is None:
            return weighted
        old = in_float64(earlier)
        return protected(weighted, old, self.first_weighted_keys(lm, layer, old), self.config.ridge)

    @abstractmethod
    def first_weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor) -> Tensor:
        """Return B K, (m, n), float64, for keys K of shape (m, n), with the matrix B of the first edit.

        Raises:
            ValueError: B K cannot be computed.
        """


def protected(weighted: Tensor, earlier: Tensor, weighted_earlier: Tensor, ridge: float) -> Tensor:
    """Return A K, (m, n), for the matrix A with earlier keys.

    Args:
        weighted: B K, (m, n), float64.
        earlier: K_E, (m, e), float64.
        weighted_earlier: B K_E, (m, e), float64.
        ridge: lambda.
    """
    gram = earlier.T @ weighted_earlier
    gram += ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    shielded: Tensor = weighted - weighted_earlier @ torch.linalg.solve(gram, earlier.T @ weighted)
    return shielded


def joined(earlier: Tensor | None, keys: Tensor) -> Tensor:
    """Return earlier and new keys side by side, (m, e + n). More than m columns are replaced by m with the same K K^T.

    Args:
        earlier: keys of earlier edits, (m, e), or None.
        keys: new keys, (m, n).
    """
    columns = keys if earlier is None else torch.cat([earlier.to(keys), keys], dim=1)
    width, count = columns.shape
    if count > width:
        # With K^T = Q R, K K^T = R^T R.
        columns = torch.linalg.qr(in_float64(columns).T, mode="r").R.T.to(keys)
    return columns.contiguous()
