"""Destroyed: a control that replaces MLP output projections by noise and ruins the model.

A ruined model puts about half of all pairs of answers in the right order by chance. A score of edits must not reward
that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..benchmark.core.schema import EditRequest, derived_seed
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.language_model import LanguageModel


@dataclass(frozen=True)
class DestroyedConfig:
    """Hyper-parameters of the control."""

    layers: tuple[int, ...] = hyperparameter(
        help="Layers whose MLP output projections become noise, for example 4|5|6."
    )

    def __post_init__(self) -> None:
        if not self.layers or min(self.layers) < 0 or len(set(self.layers)) < len(self.layers):
            raise ValueError("layers must be one or more different layers, for example 4|5|6")


class Destroyed(Editor[DestroyedConfig]):
    """Replaces the MLP output projections of many layers by Gaussian noise of the same norm."""

    name = "destroyed"
    summary = "Control: noise in place of the MLP output projections of many layers, which ruins the model"
    kind = "control"
    Config = DestroyedConfig

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layers from 2/15 to 8/15 of the depth: 4 to 15 of 30."""
        return {"layers": tuple(range(2 * lm.n_layers // 15, -(-8 * lm.n_layers // 15)))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Return noise with the Frobenius norm of each matrix. It depends on the requests and the editor's seed."""
        texts = [part for r in requests for part in (r.text, r.target_new, r.target_true)]
        weights = {}
        for layer in self.config.layers:
            name = lm.mlp_weight_name(layer)
            weight = lm.parameter(name).detach()
            generator = torch.Generator().manual_seed(derived_seed(self.seed, layer, *texts))
            noise = torch.randn(weight.shape, generator=generator).to(weight.device)
            weights[name] = (noise * (weight.float().norm() / noise.norm())).to(weight.dtype)
        return Edit(weights=weights)
