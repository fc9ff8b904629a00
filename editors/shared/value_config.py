"""Hyper-parameters of the methods that optimise a value vector."""

from __future__ import annotations

from dataclasses import dataclass

from ...benchmark.editing import hyperparameter
from .contexts import check_contexts
from .covariance import SELF, Corpus
from .value_vectors import ValueObjective

STEPS_HELP = "Iterations of the value's optimisation. The last one only evaluates the loss."
CLAMP_HELP = "Bound on |delta| / |v0|."


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """Hyper-parameters that ROME, MEMIT and their variants share, named as in the papers' code where possible.

    The value's optimisation adds delta to the output v0, see :class:`ValueObjective`. The corpus is the text over
    which the second moment of the keys is averaged, see :class:`Corpus`.
    """

    steps: int = hyperparameter(20, help=STEPS_HELP)
    learning_rate: float = hyperparameter(0.5, help="Learning rate of Adam.")
    weight_decay: float = hyperparameter(0.5, help="Weight of |delta| / |v0|^2 in the loss.")
    clamp: float = hyperparameter(4.0, help=CLAMP_HELP)
    kl_factor: float = hyperparameter(
        0.0625, help="Weight of the KL divergence that keeps the next token of '{subject} is a' unchanged."
    )
    stop_below: float = hyperparameter(0.05, help="Loss below which the optimisation stops.")
    corpus: str = hyperparameter(
        SELF,
        help="Text for the second moment of the keys: self (sampled from the model), a text file, datasets:NAME or "
        "datasets:NAME#CONFIG.",
    )
    corpus_tokens: int | None = hyperparameter(
        None, help="Minimum number of tokens of the corpus; none takes four per neuron of a layer."
    )
    corpus_length: int = hyperparameter(128, help="Tokens per text of the corpus.")
    contexts: tuple[str, ...] | None = hyperparameter(
        None,
        help="Templates with a {} for the prompt, separated by |, the first being {}; none samples them from the "
        "model.",
    )

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.clamp <= 0:
            raise ValueError("steps must be at least 1, learning_rate and clamp above 0")
        check_contexts(self.contexts)
        self.text(seed=0)  # the constructor validates the values

    @property
    def objective(self) -> ValueObjective:
        """The parameters of the value's optimisation."""
        return ValueObjective(
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clamp=self.clamp,
            kl_factor=self.kl_factor,
            stop_below=self.stop_below,
        )

    def text(self, seed: int) -> Corpus:
        """Return the corpus of the second moment; the seed determines the text that is sampled from the model."""
        return Corpus(self.corpus, self.corpus_tokens, self.corpus_length, seed)
