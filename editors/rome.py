"""ROME: one rank-one update writes one fact into one MLP layer.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (NeurIPS), section 3. The direction of the update
is u = C^-1 k* / |C^-1 k*| with the second moment C of the keys (``mom2_adjustment``, as published), or k* / |k*|
without it (as Niu et al. 2024 and EasyEdit run it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject, derived_seed
from ..benchmark.editing import Edit
from ..benchmark.models.language_model import LanguageModel
from .published import published
from .shared.contexts import ContextEditor
from .shared.covariance import SecondMoments
from .shared.value_config import ValueConfig
from .shared.value_vectors import TOGETHER, ValueVector, value_vectors


@dataclass(frozen=True, kw_only=True)
class RomeConfig(ValueConfig):
    """Hyper-parameters; those of the value v* stand in :class:`ValueConfig`.

    Attributes:
        layer: whose MLP output projection is changed.
        mom2_adjustment: whether the update's direction is weighed against the second moment of the keys.
    """

    layer: int
    mom2_adjustment: bool = False

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
    joint_batch_size = TOGETHER

    def __init__(self, config: RomeConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.moments = SecondMoments(config.text(seed))

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Take a layer one sixth up, as the published settings for GPT-J and Llama do."""
        return {"layer": round(lm.n_layers / 6)}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the second moment where it is asked for."""
        facts = super().prepare(lm, reporter)
        if not self.config.mom2_adjustment:
            return facts
        return {**facts, "second_moment": self.moments.prepare(lm, [self.config.layer], reporter)}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Write one fact: W += (v* - W k) u^T / (k . u).

        Raises:
            ValueError: more than one request; ROME writes one fact at a time.
        """
        if len(requests) != 1:
            raise ValueError(f"{self.name} writes one fact at a time, got {len(requests)}")
        return self.edit_each(lm, requests)[0]

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute each request's update alone, and all their v* in one optimisation."""
        found = value_vectors(lm, requests, self.config.layer, self.contexts(lm), self.config.objective)
        return [self.write(lm, request, values) for request, values in zip(requests, found, strict=True)]

    def write(self, lm: LanguageModel, request: EditRequest, found: ValueVector) -> Edit:
        """Return the update that writes one value under its key."""
        del request
        layer = self.config.layer
        left = self.direction(lm, found.key)
        key, value = self.written_at(lm, found)
        right = (found.value - value) / (key @ left)
        name = lm.mlp_weight_name(layer)
        weight = lm.parameter(name).detach()
        update = lm.as_stored(layer, torch.outer(right, left))
        return Edit(
            weights={name: (weight.float() + update).to(weight.dtype)},
            diagnostics={
                "losses": [round(x, 6) for x in found.losses],
                "key_dot": float(key @ left),
                "update_norm": float(right.norm()),
            },
        )

    def direction(self, lm: LanguageModel, key: Tensor) -> Tensor:
        """Return the unit vector u that the update answers to, (m,)."""
        if self.config.mom2_adjustment:
            key = self.moments.solve(lm, self.config.layer, key[:, None])[:, 0].float()
        unit: Tensor = key / key.norm()
        return unit

    def written_at(self, lm: LanguageModel, found: ValueVector) -> tuple[Tensor, Tensor]:
        """Return the key k that shall be mapped to v*, (m,), and what it is mapped to now, (d,)."""
        del lm
        return found.bare_key, found.bare_value


class RRome(Rome):
    """ROME with the mean key in every place of the update.

    ROME mixes the key of the bare prompt and the mean over contexts; Gupta et al. 2024 show that this is what lets
    single edits destroy a model, and use the mean throughout.
    """

    name = "r-rome"
    summary = "ROME with the mean key in both places of the update"
    paper = "Gupta et al. 2024, Rebuilding ROME"

    def written_at(self, lm: LanguageModel, found: ValueVector) -> tuple[Tensor, Tensor]:
        """Return the mean key over contexts and the MLP output that it gives now."""
        with torch.no_grad():
            now: Tensor = lm.mlp_out(self.config.layer)(found.key[None, None].to(lm.dtype))[0, 0]
        return found.key, now.float()


class RandomUpdate(Rome):
    """A rank-one update in a random direction, as large as ROME's: what a method must beat.

    It tells what a perturbation of that size does by itself, wherever it points.
    """

    name = "random"
    summary = "Control: a random rank-one update with the norm of ROME's"
    paper = ""

    def write(self, lm: LanguageModel, request: EditRequest, found: ValueVector) -> Edit:
        """Return a random update of the norm that ROME's would have."""
        layer = self.config.layer
        (name,) = (rome := super().write(lm, request, found)).weights
        generator = torch.Generator().manual_seed(
            derived_seed(self.seed, request.text, request.target_new, request.target_true)
        )
        right, left = (torch.randn(n, generator=generator).to(lm.device) for n in (len(found.value), len(found.key)))
        size = rome.diagnostics["update_norm"] / float(right.norm() * left.norm())
        weight = lm.parameter(name).detach()
        update = lm.as_stored(layer, size * torch.outer(right, left))
        return Edit(
            weights={name: (weight.float() + update).to(weight.dtype)},
            diagnostics={"update_norm": rome.diagnostics["update_norm"]},
        )
