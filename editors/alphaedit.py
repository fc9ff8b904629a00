"""AlphaEdit: write facts into the directions of the key space that text does not use.

Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models" (ICLR). AlphaEdit is the
update of :mod:`~knbench.editors.shared.multi_layer` with A = P, the projection on the null space of the second moment
C of the keys. The update leaves the outputs of keys outside that null space exactly as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import JsonObject
from ..benchmark.editing import hyperparameter
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.precision import in_float64
from .shared.multi_layer import MultiLayerConfig, MultiLayerEditor
from .shared.published import published


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


class AlphaEdit(MultiLayerEditor[AlphaEditConfig]):
    """Null-space constrained editing."""

    name = "alphaedit"
    summary = "As MEMIT, with the update projected on directions that text does not use"
    paper = "Fang et al. 2025 (ICLR)"
    Config = AlphaEditConfig
    published = published("alphaedit")
    protects_earlier = True

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the second moments and the directions to preserve."""
        provenance = super().prepare(lm, reporter)
        with reporter.stage("directions that text uses", len(self.config.layers)) as step:
            for layer in self.config.layers:
                self.moments.preserved(lm, layer, self.config.threshold)
                step()
        return provenance

    def weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor, earlier: Tensor | None) -> Tensor:
        """Return the keys without their components in the preserved directions and in the earlier edits' keys.

        Without earlier keys, A = P. Otherwise, with F = P K_p for the earlier keys K_p, A is the inverse of
        I + F F^T / lambda on the null space. By the Woodbury identity this gives the paper's
        (K_p K_p^T P + K K^T P + lambda I)^-1 (equation 14).

        Raises:
            ValueError: a key has no component in the null space.
        """
        preserved = self.moments.preserved(lm, layer, self.config.threshold)  # (m, r)
        keys = in_float64(keys)
        free = keys - preserved @ (preserved.T @ keys)
        if bool((free.norm(dim=0) < 1e-9 * keys.norm(dim=0)).any()):
            raise ValueError(f"layer {layer} has no direction that text leaves free; set threshold higher")
        if earlier is None:
            return free
        old = in_float64(earlier)
        old = old - preserved @ (preserved.T @ old)  # F, (m, e)
        gram = old.T @ old
        gram += self.config.ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        shielded: Tensor = free - old @ torch.linalg.solve(gram, old.T @ free)
        return shielded
