"""R-ROME: ROME with the mean key in all places of the update.

ROME takes the mean key over contexts for the direction of the update and the key of the bare prompt elsewhere. Gupta
et al. 2024, "Rebuilding ROME", show that this mixture lets single edits destroy a model, and use the mean throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..benchmark.models.language_model import LanguageModel
from .rome import Rome
from .shared.published import published
from .shared.value_vectors import ValueVector


class RRome(Rome):
    """ROME with the mean key over contexts as the key k."""

    name = "r-rome"
    summary = "ROME with the mean key in both places of the update"
    paper = "Gupta et al. 2024, Rebuilding ROME"
    published = published("r-rome")

    def key_and_output(self, lm: LanguageModel, vector: ValueVector) -> tuple[Tensor, Tensor]:
        """Return the mean key over contexts, (m,), and its MLP output before the edit, (d,)."""
        with torch.no_grad():
            output: Tensor = lm.mlp_out(self.config.layer)(vector.key[None, None].to(lm.dtype))[0, 0]
        return vector.key, output.float()
