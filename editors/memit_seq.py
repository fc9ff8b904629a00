"""MEMIT-seq: MEMIT in a sequence, with the keys of earlier edits among the keys that an update leaves alone.

This form of MEMIT (Meng et al. 2023) is a baseline in the released code of Li et al. 2025, "Rethinking Residual
Distribution in Locate-then-Edit Model Editing" (NeurIPS). The update of a layer is

    W += R K^T (lambda C + K_E K_E^T + K K^T)^-1

with the keys K_E of all earlier edits, each read once, right after its own edit. It is the update of
:mod:`~knbench.editors.shared.earlier_keys` with B = C^-1, the inverse second moment of the keys of text. The first edit
is that of MEMIT. With one layer and fixed keys, a sequence of edits equals one batch (recursive least squares).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..benchmark.models.language_model import LanguageModel
from .memit import MemitConfig
from .shared.earlier_keys import ProtectingEditor
from .shared.published import published


class MemitSeq(ProtectingEditor[MemitConfig]):
    """MEMIT that protects the keys of earlier edits."""

    name = "memit-seq"
    summary = "As MEMIT, with the keys of earlier edits protected"
    paper = "Meng et al. 2023 (ICLR), as in Li et al. 2025 (NeurIPS)"
    Config: ClassVar[type] = MemitConfig
    published = published("memit-seq")

    def first_weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor) -> Tensor:
        """Return C^-1 K, (m, n), float64.

        Raises:
            ValueError: C is singular.
        """
        return self.moments.solve(lm, layer, keys)
