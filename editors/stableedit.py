"""StableEdit: UltraEdit with fully whitened gradients and a larger ridge term.

"More Edits, More Stable: Understanding the Lifelong Normalization in Sequential Model Editing" (ICML 2026), after
:mod:`~knbench.editors.ultraedit`. Once the running statistics have n > out + 1 rows, gradients are whitened instead of
divided by their standard deviations:

    g^ = (g - mean) Sigma^(-1/2),    Sigma = S / (n - out - 1),

with the sum S of the outer products of deviations from the mean, and eigenvalues of at least 1e-6. n counts the rows of
all modules that share the statistics. Inputs are divided by their standard deviations. The variance of a mini-batch
enters in its biased form, by which the statistics are those of all rows at once.

Difference from released code: there, the statistics begin with 2,000 training edits, which are written into the weights
as well. Here the rows of tuning cases begin them, whose updates are not written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..benchmark.editing import hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.published import published
from .ultraedit import UltraEdit, UltraEditConfig, layers_between


@dataclass(frozen=True, kw_only=True)
class StableEditConfig(UltraEditConfig):
    """Hyper-parameters of StableEdit: those of UltraEdit, with a larger ridge term by default."""

    ridge: float = hyperparameter(10.0, help="Ridge term alpha of the regression.")


class StableEdit(UltraEdit):
    """Closed-form editing with whitened gradients."""

    name = "stableedit"
    summary = "As UltraEdit, with whitened gradients"
    paper = "More Edits, More Stable (ICML 2026)"
    Config = StableEditConfig
    published = published("stableedit")
    variance = "biased"
    whitens = True

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return upper layers, whose output projections are edited, and a learning rate.

        The size of the outputs of these projections, d, is that of the covariance to invert. The learning rate keeps
        the published product of eta and the size of the inputs for Llama-3.
        """
        layers = layers_between(0.8, 0.97, lm.n_layers)
        return {"gate": None, "up": None, "down": layers, "learning_rate": 1e-6 * 14336 / lm.n_neurons}
