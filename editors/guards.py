"""Guards of weight updates: RECT and PRUNE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..benchmark.editing import Guard, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from ..benchmark.models.precision import in_float64


@dataclass(frozen=True)
class RectConfig:
    """Hyper-parameters of RECT."""

    share: float = hyperparameter(0.2, help="Share of the weight's entries that are changed.")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError("rect_share must be above 0 and at most 1")


class Rect(Guard[RectConfig]):
    """Keeps the entries of an update that are largest relative to the weight, and drops the others.

    Gu et al. 2024, "Model Editing Harms General Abilities of Large Language Models: Regularization to the Rescue"
    (EMNLP). As in the released code, n - int((1 - share) n) of n entries are kept; among equal ones the first.
    """

    name = "rect"
    summary = "RECT: only the entries with the largest relative change"
    paper = "Gu et al. 2024 (EMNLP)"
    Config = RectConfig

    def update(self, lm: LanguageModel, name: str, original: Tensor, current: Tensor, proposed: Tensor) -> Tensor:
        """Return the proposed values at the kept entries, and the current ones elsewhere."""
        del lm, name, original
        change = (proposed.float() - current.float()).flatten()
        relative = (change / current.float().flatten()).abs().nan_to_num(nan=0.0, posinf=math.inf)
        kept = len(relative) - int((1 - self.config.share) * len(relative))
        order = relative.argsort(descending=True, stable=True)[:kept]
        mask = torch.zeros_like(relative, dtype=torch.bool)
        mask[order] = True
        return torch.where(mask.view(current.shape), proposed, current)


@dataclass(frozen=True)
class PruneConfig:
    """Hyper-parameters of PRUNE."""

    base: float = hyperparameter(math.e, help="Base b of the logarithm. A larger one restrains more.")

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError("base must be above 1")


class PruneEach(Guard[PruneConfig]):
    """Compresses the large singular values of the whole change since the unedited weight, after every edit.

    Ma et al. 2025, "Perturbation-Restrained Sequential Model Editing" (ICLR). With the largest singular value s of the
    unedited weight, each singular value t >= s of the change becomes log_b(t) - log_b(s) + s. The next edit continues
    from the restrained weight. For one edit the guard equals :class:`PruneView`.
    """

    name = "prune-each"
    summary = "PRUNE after every edit: large singular values of the change are compressed"
    paper = "Ma et al. 2025 (ICLR)"
    Config = PruneConfig

    def update(self, lm: LanguageModel, name: str, original: Tensor, current: Tensor, proposed: Tensor) -> Tensor:
        """Return the unedited weight plus the restrained change.

        Raises:
            ValueError: the function raises singular values of this weight instead of restraining them.
        """
        del lm, current
        start = in_float64(original)
        largest, log_base = float(torch.linalg.matrix_norm(start, ord=2)), math.log(self.config.base)
        if largest < 1 / log_base:
            raise ValueError(
                f"'{name}' has the largest singular value {largest:.3g}; base {self.config.base:g} restrains changes "
                f"from {1 / log_base:.3g} on; set a higher base"
            )
        u, s, vh = torch.linalg.svd(in_float64(proposed) - start, full_matrices=False)
        if float(s[0]) < largest:
            return proposed
        s = torch.where(s >= largest, s.log() / log_base - math.log(largest) / log_base + largest, s)
        restrained: Tensor = start + u @ torch.diag(s) @ vh
        return restrained.to(proposed.device, proposed.dtype)


class PruneView(PruneEach):
    """Compresses the large singular values of the sum of all edits, as the paper does.

    The edits continue from the weights without restraint, which the state holds.
    """

    name = "prune-view"
    summary = "PRUNE: large singular values of the sum of all edits are compressed"
    view = True
