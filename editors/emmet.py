"""EMMET: MEMIT with the new facts as equality constraints.

Gupta et al. 2024, "A Unified Framework for Model Editing". The update is that of MEMIT with a small lambda. As in the
released code, lambda is left out for a single fact, whose system is one number. The released settings multiply C by a
weight w; lambda here is the product of their lambda and w.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmark.editing import hyperparameter
from .memit import Memit, MemitConfig
from .shared.published import published


@dataclass(frozen=True, kw_only=True)
class EmmetConfig(MemitConfig):
    """Hyper-parameters of EMMET: those of MEMIT, with a small lambda by default."""

    ridge: float = hyperparameter(
        0.1, help="Ridge term lambda of two or more facts, which only keeps the system of the update solvable."
    )


class Emmet(Memit):
    """Equality-constrained mass model editing."""

    name = "emmet"
    summary = "As MEMIT, with the new facts as equality constraints"
    paper = "Gupta et al. 2024, A Unified Framework for Model Editing"
    Config = EmmetConfig
    published = published("emmet")

    def ridge(self, facts: int) -> float:
        """Return lambda, which is 0 for a single fact."""
        return self.config.ridge if facts > 1 else 0.0
