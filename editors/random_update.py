"""Random control: a rank-one update in a random direction, with the norm of ROME's update.

It measures the effect of a perturbation of this size that carries no information about the fact.
"""

from __future__ import annotations

import torch

from ..benchmark.core.schema import EditRequest, derived_seed
from ..benchmark.editing import Edit
from ..benchmark.models.language_model import LanguageModel
from .rome import Rome
from .shared.value_vectors import ValueVector


class RandomUpdate(Rome):
    """A random rank-one update of the norm of ROME's, with the hyper-parameters of ROME."""

    name = "random"
    summary = "Control: a random rank-one update with the norm of ROME's"
    paper = ""
    kind = "control"

    def write(self, lm: LanguageModel, request: EditRequest, vector: ValueVector) -> Edit:
        """Return a random update with the norm of ROME's. It depends on the request and the editor's seed alone."""
        layer = self.config.layer
        (name,) = (rome := super().write(lm, request, vector)).weights
        generator = torch.Generator().manual_seed(
            derived_seed(self.seed, request.text, request.target_new, request.target_true)
        )
        right, left = (torch.randn(n, generator=generator).to(lm.device) for n in (len(vector.value), len(vector.key)))
        size = rome.diagnostics["update_norm"] / float(right.norm() * left.norm())
        weight = lm.parameter(name).detach()
        update = lm.as_stored(layer, size * torch.outer(right, left))
        return Edit(
            weights={name: (weight.float() + update).to(weight.dtype)},
            diagnostics={"update_norm": rome.diagnostics["update_norm"]},
        )
