"""What every method that seeks a value vector can be told: its optimisation, its contexts, its text."""

from __future__ import annotations

from dataclasses import dataclass

from .contexts import check_contexts
from .covariance import SELF, Corpus
from .value_vectors import ValueObjective


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """Hyper-parameters that ROME and MEMIT share, under the names of the papers where they have one.

    Attributes:
        steps: iterations of the optimisation of the value; the last one only evaluates.
        learning_rate: of Adam.
        weight_decay: factor of |delta| / |v0|^2.
        clamp: bound on |delta| / |v0|.
        kl_factor: weight of the essence term.
        stop_below: a loss that ends the optimisation.
        corpus: the text of the keys' second moment, see :class:`~knbench.editors.shared.covariance.Corpus`.
        corpus_tokens: how much of it.
        corpus_length: tokens of one text.
        contexts: texts with a ``{}`` for the prompt, the first being ``{}`` itself; None lets the model write them.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl_factor: float = 0.0625
    stop_below: float = 0.05
    corpus: str = SELF
    corpus_tokens: int | None = None
    corpus_length: int = 128
    contexts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.clamp <= 0:
            raise ValueError("steps must be at least 1, learning_rate and clamp above 0")
        check_contexts(self.contexts)
        self.text(seed=0)  # which checks its own

    @property
    def objective(self) -> ValueObjective:
        """The part that concerns the value."""
        return ValueObjective(
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clamp=self.clamp,
            kl_factor=self.kl_factor,
            stop_below=self.stop_below,
        )

    def text(self, seed: int) -> Corpus:
        """The text of the second moment; the seed decides what the model writes."""
        return Corpus(self.corpus, self.corpus_tokens, self.corpus_length, seed)
