"""ROME: write one fact into one MLP layer with a rank-one update.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (NeurIPS), section 3. The update is

    W += (v* - W k) u^T / (k . u).

Its direction is u = C^-1 k* / |C^-1 k*| with the second moment C of the keys (``mom2_adjustment``, as published), or
k* / |k*| without it (as in Niu et al. 2024 and EasyEdit). Several facts are written one after the other, as in the
released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, EditStack, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.contexts import ContextEditor
from .shared.covariance import SecondMoments
from .shared.published import published
from .shared.value_config import ValueConfig
from .shared.value_vectors import JOINT_BATCH_SIZE, ValueVector, value_vectors


@dataclass(frozen=True, kw_only=True)
class RomeConfig(ValueConfig):
    """Hyper-parameters of ROME; those of the value v* are inherited from :class:`ValueConfig`."""

    layer: int = hyperparameter(help="Layer whose MLP output projection is edited.")
    mom2_adjustment: bool = hyperparameter(
        False, help="Whether to multiply the update's direction by the inverse second moment of the keys."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer < 0:
            raise ValueError("layer must be at least 0")


class Rome(ContextEditor[RomeConfig]):
    """Rank-one model editing."""

    name = "rome"
    summary = "Rank-one update of one MLP output projection at the subject's last token"
    paper = "Meng et al. 2022 (NeurIPS)"
    Config = RomeConfig
    published = published("rome")
    causal_only = True
    needs_subject = True
    joint_batch_size = JOINT_BATCH_SIZE

    def __init__(self, config: RomeConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.moments = SecondMoments(config.text(seed))

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return the layer at one sixth of the depth, as in the published settings for GPT-J and Llama."""
        return {"layer": round(lm.n_layers / 6)}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the second moment if ``mom2_adjustment`` is set."""
        provenance = super().prepare(lm, reporter)
        if not self.config.mom2_adjustment:
            return provenance
        return {**provenance, "second_moment": self.moments.prepare(lm, [self.config.layer], reporter)}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the rank-one updates of the requests, each on the model with the updates before it.

        Raises:
            ValueError: a request's value vector cannot be computed.
        """
        edits: list[Edit] = []
        with EditStack(lm) as stack:
            for request in requests:
                if edits:
                    stack.push(edits[-1])
                edits += self.edit_each(lm, [request])
        if len(edits) == 1:
            return edits[0]
        return Edit(weights=edits[-1].weights, diagnostics={"requests": [dict(edit.diagnostics) for edit in edits]})

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one update per request; their value vectors are optimised jointly.

        Raises:
            ValueError: a request's value vector cannot be computed.
        """
        vectors = value_vectors(lm, requests, self.config.layer, self.contexts(lm), self.config.objective)
        return [self.write(lm, request, vector) for request, vector in zip(requests, vectors, strict=True)]

    def write(self, lm: LanguageModel, request: EditRequest, vector: ValueVector) -> Edit:
        """Return the update that maps the request's key to its value v*."""
        del request
        layer = self.config.layer
        left = self.direction(lm, vector.key)
        key, value = self.key_and_output(lm, vector)
        right = (vector.value - value) / (key @ left)
        name = lm.mlp_weight_name(layer)
        weight = lm.parameter(name).detach()
        update = lm.as_stored(layer, torch.outer(right, left))
        return Edit(
            weights={name: (weight.float() + update).to(weight.dtype)},
            diagnostics={
                "losses": [round(x, 6) for x in vector.losses],
                "key_dot": float(key @ left),
                "update_norm": float(right.norm()),
            },
        )

    def direction(self, lm: LanguageModel, key: Tensor) -> Tensor:
        """Return the unit vector u, the right factor of the update, (m,), for the mean key k* of shape (m,)."""
        if self.config.mom2_adjustment:
            key = self.moments.solve(lm, self.config.layer, key[:, None])[:, 0].float().to(lm.device)
        unit: Tensor = key / key.norm()
        return unit

    def key_and_output(self, lm: LanguageModel, vector: ValueVector) -> tuple[Tensor, Tensor]:
        """Return the key k that the update maps to v*, (m,), and its MLP output before the edit, (d,)."""
        del lm
        return vector.bare_key, vector.bare_value
