"""AlphaEdit: write facts into the directions of the key space that text does not use.

Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models" (ICLR). AlphaEdit is the
update of :mod:`~knbench.editors.shared.earlier_keys` with B = P, the projection on the null space of the second moment
C of the keys. The update leaves the outputs of keys outside that null space exactly as they are. With the keys K_p of
earlier edits it is the paper's equation 14,

    W += R K^T P (K_p K_p^T P + K K^T P + lambda I)^-1.

As in the released code, the keys of earlier edits are read once, right after their own edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.precision import in_float64
from .shared.earlier_keys import ProtectingEditor
from .shared.multi_layer import MultiLayerConfig
from .shared.published import published
from .shared.subject_reader import SubjectReader


@dataclass(frozen=True, kw_only=True)
class AlphaEditConfig(MultiLayerConfig):
    """Hyper-parameters of AlphaEdit.

    The default of ``threshold`` is relative, because a value that was published for one model does not transfer to
    activations of another scale.
    """

    ridge: float = hyperparameter(10.0, help="Ridge term lambda of the update.")
    threshold: float | None = hyperparameter(
        None, help="Eigenvalues of C below it belong to the null space; none takes the mean eigenvalue."
    )
    keys: Literal["stored", "recomputed"] = hyperparameter(
        "stored",
        help="Keys of earlier edits in a sequence. stored: as they were right after their own edit; recomputed: read "
        "again on the current model, at a cost that grows with their number.",
    )


class AlphaEdit(ProtectingEditor[AlphaEditConfig]):
    """Null-space constrained editing."""

    name = "alphaedit"
    summary = "As MEMIT, with the update projected on directions that text does not use"
    paper = "Fang et al. 2025 (ICLR)"
    Config = AlphaEditConfig
    published = published("alphaedit")

    def __init__(self, config: AlphaEditConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.replays = config.keys == "recomputed"  # reads the earlier requests again

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the second moments and the directions to preserve."""
        provenance = super().prepare(lm, reporter)
        with reporter.stage("directions that text uses", len(self.config.layers)) as step:
            for layer in self.config.layers:
                self.moments.preserved(lm, layer, self.config.threshold)
                step()
        return provenance

    def edit_next(
        self,
        lm: LanguageModel,
        requests: Sequence[EditRequest],
        earlier: Sequence[EditRequest],
        state: State | None = None,
    ) -> Edit:
        """Compute an update that protects the keys of earlier edits. With stored keys, its state contains them.

        Raises:
            ValueError: a value vector cannot be computed, a layer has no null space, or stored keys are missing.
        """
        if self.config.keys == "stored":
            return super().edit_next(lm, requests, earlier, state)
        if not earlier:
            return self.edit_layers(lm, requests).edit
        old = SubjectReader(lm, earlier, self.contexts(lm), self.config.layers)
        return self.edit_layers(lm, requests, lambda layer: old.read(layer)[0].T).edit

    def weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return A K, (m, n), float64. With earlier keys this gives the paper's equation 14.

        Raises:
            ValueError: a key has no component in the null space.
        """
        free = self.first_weighted_keys(lm, layer, keys)
        if bool((free.norm(dim=0) < 1e-9 * in_float64(keys).norm(dim=0)).any()):
            raise ValueError(f"layer {layer} has no direction that text leaves free; set threshold higher")
        return super().weighted_keys(lm, layer, keys, earlier)

    def first_weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor) -> Tensor:
        """Return P K, the keys without their components in the preserved directions, (m, n), float64."""
        preserved = self.moments.preserved(lm, layer, self.config.threshold)  # (m, r)
        keys = in_float64(keys)
        free: Tensor = keys - preserved @ (preserved.T @ keys)
        return free
