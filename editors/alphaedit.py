"""AlphaEdit: write facts into the directions of the key space that text does not use.

Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge Editing for Language Models" (ICLR). AlphaEdit is the
update of :mod:`~knbench.editors.shared.multi_layer` with A = P, the projection on the null space of the second moment
C of the keys. The update leaves the outputs of keys outside that null space exactly as they are.

In a sequence, the keys K_p of earlier edits are protected as well. As in the released code, they are read once, right
after their own edit. Only K_p K_p^T enters the update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..benchmark.core.progress import Reporter
from ..benchmark.core.schema import EditRequest, JsonObject
from ..benchmark.editing import Edit, State, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.precision import in_float64
from .shared.multi_layer import MultiLayerConfig, MultiLayerEditor
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


class AlphaEdit(MultiLayerEditor[AlphaEditConfig]):
    """Null-space constrained editing."""

    name = "alphaedit"
    summary = "As MEMIT, with the update projected on directions that text does not use"
    paper = "Fang et al. 2025 (ICLR)"
    Config = AlphaEditConfig
    published = published("alphaedit")

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Sample the contexts, and compute the second moments and the directions to preserve."""
        provenance = super().prepare(lm, reporter)
        with reporter.stage("directions that text uses", len(self.config.layers)) as step:
            for layer in self.config.layers:
                self.moments.preserved(lm, layer, self.config.threshold)
                step()
        return provenance

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the update of all requests, the first one of a sequence.

        Raises:
            ValueError: a value vector cannot be computed, or a layer has no null space.
        """
        return self.edit_next(lm, requests, ())

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
        if self.config.keys == "recomputed":
            if not earlier:
                return self.edit_layers(lm, requests)
            old = SubjectReader(lm, earlier, self.contexts(lm), self.config.layers)
            return self.edit_layers(lm, requests, lambda layer: old.read(layer)[0].T)
        stored = {} if state is None else state.tensors
        missing = [layer for layer in self.config.layers if str(layer) not in stored]
        if earlier and missing:
            raise ValueError(f"the state has no keys of layer {missing[0]}; pass the state of the previous edit")
        edit = self.edit_layers(lm, requests, lambda layer: stored.get(str(layer)))
        with edit.applied(lm):
            reader = SubjectReader(lm, requests, self.contexts(lm), self.config.layers)
            keys = {str(layer): reader.read(layer)[0].T for layer in self.config.layers}
        return replace(edit, state=State({name: _joined(stored.get(name), new) for name, new in keys.items()}))

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


def _joined(earlier: Tensor | None, keys: Tensor) -> Tensor:
    """Return earlier and new keys side by side, (m, e + n). More than m columns are replaced by m with the same K K^T.

    Args:
        earlier: keys of earlier edits, (m, e), or None.
        keys: new keys, (m, n).
    """
    joined = keys if earlier is None else torch.cat([earlier.to(keys), keys], dim=1)
    width, count = joined.shape
    if count > width:
        # With K^T = Q R, K K^T = R^T R.
        joined = torch.linalg.qr(in_float64(joined).T, mode="r").R.T.to(keys)
    return joined.contiguous()
