"""MEMIT: write many facts at once with a least-squares update of several MLP layers.

Meng et al. 2023, "Mass-Editing Memory in a Transformer" (ICLR). MEMIT is the update of
:mod:`~knbench.editors.shared.multi_layer` with A = C^-1, the inverse second moment of the keys. By the Woodbury
identity it equals R K^T (lambda C + K K^T)^-1, a least-squares compromise between the new facts and the keys of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..benchmark.editing import hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.multi_layer import MultiLayerConfig, MultiLayerEditor
from .shared.published import published


@dataclass(frozen=True, kw_only=True)
class MemitConfig(MultiLayerConfig):
    """Hyper-parameters of MEMIT."""

    ridge: float = hyperparameter(15000.0, help="Weight lambda of the keys of text relative to the new keys.")


class Memit(MultiLayerEditor[MemitConfig]):
    """Mass-editing memory in a transformer."""

    name = "memit"
    summary = "Least-squares update of several MLP layers, for many facts at once"
    paper = "Meng et al. 2023 (ICLR)"
    Config: ClassVar[type] = MemitConfig
    published = published("memit")

    def weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return C^-1 K, (m, n), float64. Earlier keys have no effect.

        Raises:
            ValueError: C is singular.
        """
        del earlier
        return self.moments.solve(lm, layer, keys)
