"""PMET: MEMIT with values that are optimised for the MLP alone, beside a value of the attention.

Li et al. 2024, "PMET: Precise Model Editing in a Transformer" (AAAI). A delta of the attention output is optimised
together with that of the MLP output in the last edited layer, see :mod:`~knbench.editors.shared.two_site_values`. Only
the value z_m of the MLP is written. In layer r of R, the update is that of MEMIT with the residual

    R_r = (z_m - MLP output of the last edited layer) / sqrt(R - r + 1).

Difference from released code: "all targets are the most probable tokens" compares token ids; the released code compares
floating-point means of probabilities. In models with a norm between the MLP and the residual stream, R_r is the wanted
change of the residual stream, and is converted to that of the MLP's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .memit import Memit, MemitConfig
from .shared.mlp_contribution import contribution
from .shared.multi_layer import EarlierKeys, LayerEdits
from .shared.published import published
from .shared.subject_reader import SubjectReader
from .shared.two_site_values import two_site_value
from .shared.value_config import STEPS_HELP


@dataclass(frozen=True, kw_only=True)
class PmetConfig(MemitConfig):
    """Hyper-parameters of PMET: those of MEMIT, with other defaults."""

    ridge: float = hyperparameter(6000.0, help="Weight lambda of the keys of text relative to the new keys.")
    steps: int = hyperparameter(30, help=STEPS_HELP)
    learning_rate: float = hyperparameter(0.2, help="Learning rate of Adam.")
    kl_factor: float = hyperparameter(
        1.0, help="Weight of the KL divergence that keeps the next token of '{subject} is a' unchanged."
    )
    attention: bool = hyperparameter(True, help="Whether a delta of the attention output is optimised as well.")
    spread: bool = hyperparameter(
        True, help="Whether the residual is divided by the root of the number of remaining layers, instead of by it."
    )


class Pmet(Memit):
    """Precise model editing in a transformer."""

    name = "pmet"
    summary = "As MEMIT, with values of the MLP that are optimised beside values of the attention"
    paper = "Li et al. 2024 (AAAI)"
    Config: ClassVar[type] = PmetConfig
    published = published("pmet")

    def edit_layers(
        self, lm: LanguageModel, requests: Sequence[EditRequest], earlier: EarlierKeys | None = None
    ) -> LayerEdits:
        """Compute the update of all layers, see :meth:`.MultiLayerEditor.edit_layers`.

        Raises:
            ValueError: a value cannot be computed, or the system of a layer cannot be solved.
        """
        config = self.config
        assert isinstance(config, PmetConfig)
        layers, contexts = config.layers, self.contexts(lm)
        values = [
            two_site_value(lm, request, layers[-1], contexts, config.objective, attention=config.attention)
            for request in requests
        ]
        targets = torch.stack([value.mlp for value in values])  # (n, d)
        reader = SubjectReader(lm, requests, contexts, layers, site="mlp")
        weights: dict[str, Tensor] = {}
        used: dict[int, Tensor] = {}
        missing = []
        with ExitStack() as stack:
            for done, layer in enumerate(layers):
                keys, outputs = reader.read(layer)  # (n, m), (n, d)
                used[layer] = keys.T
                residual = contribution(lm, layers[-1], targets) - contribution(lm, layers[-1], outputs)
                missing.append(float(residual.norm(dim=-1).mean()))
                remaining = len(layers) - done
                share = reader.output_changes(layer, residual / (sqrt(remaining) if config.spread else remaining))
                update = self.update(lm, layer, keys.T, share.T, earlier(layer) if earlier else None)
                name = lm.mlp_weight_name(layer)
                weight = lm.parameter(name).detach()
                weights[name] = (weight.float() + lm.as_stored(layer, update)).to(weight.dtype)
                stack.enter_context(Edit(weights={name: weights[name]}).applied(lm))
        losses = [[round(x, 6) for x in value.losses] for value in values]
        return LayerEdits(Edit(weights=weights, diagnostics={"losses": losses, "missing": missing}), used)
