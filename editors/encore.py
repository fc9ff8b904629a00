"""ENCORE: MEMIT for long sequences, with a bound on the norm of updates and an early stop of the values.

Gupta et al. 2025, "Lifelong Knowledge Editing Requires Better Regularization" (Findings of EMNLP). Two additions to
MEMIT-seq keep the edited matrices from growing:

1. The cost of an update D has the term mu |D|^2:

       W += R K^T (lambda C + mu I + K_E K_E^T + K K^T)^-1.

   This is the update of :mod:`~knbench.editors.shared.earlier_keys` with B = (C + mu / lambda I)^-1.
2. The optimisation of a value stops after a number of iterations in which its target is the most probable continuation
   in every context (most-probable early stop).

The keys K_E of earlier edits are those that entered their updates, before the layer was written.

The released code counts target tokens instead of contexts, which is right for targets of one token, and leaves the
prompt without a context out. Here, all tokens of the target must be the most probable ones in all contexts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..benchmark.editing import hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .memit import MemitConfig
from .shared.earlier_keys import ProtectingEditor
from .shared.published import published
from .shared.value_vectors import ValueObjective


@dataclass(frozen=True, kw_only=True)
class EncoreConfig(MemitConfig):
    """Hyper-parameters of ENCORE: those of MEMIT, the weight of the norm and the early stop.

    The default of ``norm_weight`` is 1/1500 of the ridge, the ratio of the released settings.
    """

    norm_weight: float = hyperparameter(10.0, help="Weight mu of the squared norm of the update; 0 turns it off.")
    stop_after: int | None = hyperparameter(
        3,
        help="Iterations with the target as the most probable continuation in all contexts, after which the value's "
        "optimisation stops; none turns the rule off.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm_weight < 0 or self.ridge == 0:
            raise ValueError("norm_weight must not be negative, and ridge must be above 0")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError("stop_after must be at least 1, or none")

    @property
    def objective(self) -> ValueObjective:
        """The parameters of the value's optimisation, with the early stop."""
        return replace(super().objective, stop_after=self.stop_after)


class Encore(ProtectingEditor[EncoreConfig]):
    """Early stopping and norm-constrained robust knowledge editing."""

    name = "encore"
    summary = "As MEMIT-seq, with a penalty on the norm of the update and an early stop of the values"
    paper = "Gupta et al. 2025 (Findings of EMNLP)"
    Config: ClassVar[type] = EncoreConfig
    published = published("encore")
    stored_keys = "used"

    def first_weighted_keys(self, lm: LanguageModel, layer: int, keys: Tensor) -> Tensor:
        """Return (C + mu / lambda I)^-1 K, (m, n), float64.

        Raises:
            ValueError: mu is 0 and C is singular.
        """
        return self.moments.solve(lm, layer, keys, self.config.norm_weight / self.config.ridge)
