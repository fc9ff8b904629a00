"""EMMET: MEMIT with the new facts as equality constraints.

Gupta et al. 2024, "A Unified Framework for Model Editing". The update is that of MEMIT with a small lambda.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..benchmark.editing import hyperparameter
from .memit import Memit, MemitConfig
from .shared.published import published


@dataclass(frozen=True, kw_only=True)
class EmmetConfig(MemitConfig):
    """Hyper-parameters of EMMET: those of MEMIT, with a small lambda by default."""

    ridge: float = hyperparameter(0.1, help="Ridge term lambda, which only keeps the system of the update solvable.")


class Emmet(Memit):
    """Equality-constrained mass model editing."""

    name = "emmet"
    summary = "As MEMIT, with the new facts as equality constraints"
    paper = "Gupta et al. 2024, A Unified Framework for Model Editing"
    Config = EmmetConfig
    published = published("emmet")
