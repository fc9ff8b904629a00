"""BLUE: edit only the first and the last critical layer, each with value vectors of its own.

Li et al. 2025, "Rethinking Residual Distribution in Locate-then-Edit Model Editing" (NeurIPS). MEMIT and AlphaEdit
optimise one value at the last layer and give each layer an equal share of the residual, which the lower layers cannot
represent well. BLUE (boundary layer update) takes two layers in turn. For each it optimises the output z of that
layer's block, on the model with the layer before already edited, and writes the whole residual R = z - h:

    W += R (K^T A K + lambda I)^-1 K^T A.

A is that of the method that BLUE is combined with: MEMIT-seq (``blue``) or AlphaEdit (``alphaedit-blue``). With one
layer, an edit equals that of the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..benchmark.models.language_model import LanguageModel
from .alphaedit import AlphaEdit
from .memit_seq import MemitSeq
from .shared.published import published


class Blue(MemitSeq):
    """Boundary layer update of MEMIT."""

    name = "blue"
    summary = "As MEMIT-seq, in the first and the last critical layer, each with values of its own"
    paper = "Li et al. 2025 (NeurIPS)"
    published = published("blue")

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the first and the last of MEMIT's layers."""
        return _boundary(super().generic(lm))

    def layer_groups(self) -> Sequence[tuple[int, ...]]:
        """Return each layer as a group of its own."""
        return [(layer,) for layer in self.config.layers]


class AlphaEditBlue(AlphaEdit):
    """Boundary layer update of AlphaEdit."""

    name = "alphaedit-blue"
    summary = "As AlphaEdit, in the first and the last critical layer, each with values of its own"
    paper = "Li et al. 2025 (NeurIPS)"
    published = published("alphaedit-blue")

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the first and the last of AlphaEdit's layers."""
        return _boundary(super().generic(lm))

    def layer_groups(self) -> Sequence[tuple[int, ...]]:
        """Return each layer as a group of its own."""
        return [(layer,) for layer in self.config.layers]


def _boundary(values: dict[str, Any]) -> dict[str, Any]:
    layers = values["layers"]
    return {**values, "layers": tuple(sorted({layers[0], layers[-1]}))}
