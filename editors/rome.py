"""ROME: one rank-one update writes one fact into one MLP layer.

Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (NeurIPS), section 3. Without the second moment
of the keys, as Niu et al. 2024 and EasyEdit run it: u = k* / |k*|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..benchmark.editing import Edit, Editor
from ..benchmark.language_model import LanguageModel
from ..benchmark.types import SLOT, EditRequest, derived_seed
from .published import published
from .value_vectors import ValueObjective, ValueVector, sample_contexts, value_vectors


@dataclass(frozen=True)
class RomeConfig:
    """Hyper-parameters, under the names of the paper where it has one.

    Attributes:
        layer: whose MLP output projection is changed.
        steps: iterations of the optimisation of v*; the last one only evaluates.
        learning_rate: of Adam.
        weight_decay: factor of |delta| / |v0|^2.
        clamp: bound on |delta| / |v0|.
        kl_factor: weight of the essence term.
        stop_below: a loss that ends the optimisation.
        contexts: texts with a ``{}`` for the prompt, the first being ``{}`` itself; None lets the model write them.
    """

    layer: int
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_factor: float = 0.0625
    stop_below: float = 0.05
    contexts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.layer < 0 or self.steps < 1 or self.learning_rate <= 0 or self.clamp <= 0:
            raise ValueError("layer must be at least 0, steps at least 1, learning_rate and clamp above 0")
        if self.contexts is not None and (not self.contexts or self.contexts[0] != SLOT):
            raise ValueError("contexts must begin with the empty one, '{}'")

    @property
    def objective(self) -> ValueObjective:
        """The part that concerns v*."""
        return ValueObjective(
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clamp=self.clamp,
            kl_factor=self.kl_factor,
            stop_below=self.stop_below,
        )


class Rome(Editor[RomeConfig]):
    """Rank-one model editing."""

    name = "rome"
    summary = "Rank-one update of one MLP output projection at the subject's last token"
    paper = "Meng et al. 2022 (NeurIPS)"
    Config = RomeConfig
    published = published("rome")
    causal_only = True

    def __init__(self, config: RomeConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        # By model, and gone with it: contexts that outlive a change of model would be another model's words.
        self._contexts: WeakKeyDictionary[LanguageModel, tuple[str, ...]] = WeakKeyDictionary()

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Take a layer one sixth up, as the published settings for GPT-J and Llama do."""
        return {"layer": round(lm.n_layers / 6)}

    def contexts(self, lm: LanguageModel) -> tuple[str, ...]:
        """Return the context templates for a model: given by hand, or sampled once under the editor's seed."""
        if self.config.contexts is not None:
            return self.config.contexts
        if lm not in self._contexts:
            with torch.random.fork_rng():
                torch.manual_seed(derived_seed(self.seed, "contexts"))
                self._contexts[lm] = sample_contexts(lm)
        return self._contexts[lm]

    def prepare(self, lm: LanguageModel) -> Mapping[str, Any]:
        """Sample the contexts; they are part of the result's provenance."""
        return {"contexts": list(self.contexts(lm))}

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Write one fact: W += (v* - W k) u^T / (k . u).

        Raises:
            ValueError: more than one request; ROME writes one fact at a time.
        """
        if len(requests) != 1:
            raise ValueError(f"rome writes one fact at a time, got {len(requests)}")
        layer = self.config.layer
        (found,) = value_vectors(lm, requests, layer, self.contexts(lm), self.config.objective)
        left = found.key / found.key.norm()
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
