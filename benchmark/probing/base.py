"""The interface that probers share: measuring probes on a model, and the values that they return.

A causal and a masked model are measured differently and described alike; see :mod:`.causal` and :mod:`.masked`.
:func:`.prober.make_prober` chooses between them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.records import Observation
from ..core.schema import Case, Probe
from ..models.hooks import select_positions
from ..models.language_model import LanguageModel
from ..models.precision import in_float64
from .positions import check_length, max_positions

Row = tuple[int, ...]
"""Token ids of one text."""

Position = tuple[Row, int]
"""A row, and the column in it at which the model predicts a token."""


@dataclass
class Reference:
    """Next-token distributions of the unedited model, to which ``kl`` compares the edited model.

    Attributes:
        distributions: log-probabilities in nats, float32, of shape (vocabulary,), on the model's device. The key is
            the position at which the unedited model predicts the target's first token. For a masked model its row
            contains the masks of the target, whose number changes the distribution.
    """

    distributions: dict[Position, Tensor] = field(default_factory=dict)


class Prober(ABC):
    """Measures probes on a model in its current state.

    Args:
        lm: the model.
        batch_size: rows per forward pass. The observations do not depend on it, except for rounding.
        new_tokens: minimum length of the greedy continuation, in tokens. A longer answer gets a longer continuation.
            0 generates no continuation.
        free_tokens: length of the text that is sampled for a ``generation`` probe, in tokens.

    Attributes:
        positions: number of tokens that the model can read, or None without a limit.
    """

    def __init__(self, lm: LanguageModel, *, batch_size: int = 32, new_tokens: int = 6, free_tokens: int = 100) -> None:
        self.lm = lm
        self.batch_size = batch_size
        self.new_tokens = new_tokens
        self.free_tokens = free_tokens
        self.positions = max_positions(lm)

    @abstractmethod
    def check(self, case: Case) -> None:
        """Check that the model's tokenizer can encode a case.

        Raises:
            ValueError: no token covers the subject, an answer has no token of its own, a text exceeds the model's
                positions, or the model does not support a probe's kind.
        """

    @abstractmethod
    def logprob_bounds(self, prompts: Sequence[str], answers: Sequence[str]) -> list[list[float]]:
        """Return upper bounds of the log-probability in nats of each answer after each prompt.

        Returns:
            Values of shape (prompt, answer), which cost one forward pass per prompt or none.

        Raises:
            ValueError: an answer cannot be tokenised after a prompt.
        """

    def observe(
        self, probes: Sequence[Probe], *, save_to: Reference | None = None, compare_to: Reference | None = None
    ) -> list[Observation]:
        """Measure every probe once.

        See :class:`~..core.records.Observation` for the fields of each kind of probe. ``kl`` is set for ``unchanged``
        completions if ``compare_to`` is given.

        Args:
            probes: the probes to measure.
            save_to: receives the distributions of the ``unchanged`` completion probes. Pass it when measuring the
                unedited model.
            compare_to: distributions of the unedited model to compute ``kl`` with. It must contain every ``unchanged``
                completion probe.

        Returns:
            One observation per probe, in the order of ``probes``.

        Raises:
            ValueError: an answer cannot be tokenised after its prompt.
            FloatingPointError: the model's probabilities are NaN, a causal model assigns probability 0 to an answer, or
                ``kl`` is not finite.
            torch.OutOfMemoryError: a batch of one row does not fit into memory. A larger batch that does not fit is
                halved, for this call and all later ones.
        """
        while True:
            try:
                return self._observe(probes, save_to, compare_to)
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2

    @abstractmethod
    def _observe(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None
    ) -> list[Observation]:
        """Measure every probe once with the current batch size; see :meth:`observe`."""

    @contextmanager
    def _without_prefix(self) -> Iterator[None]:
        """Remove the prompt prefix, with which the unedited model was not measured."""
        prefix, self.lm.prompt_prefix = self.lm.prompt_prefix, ""
        try:
            yield
        finally:
            self.lm.prompt_prefix = prefix

    def _logprobs(self, rows: Sequence[Sequence[int]], positions: Sequence[tuple[int, int]]) -> Tensor:
        """Return log-probabilities at ``(row index, column)`` positions, of shape (position, vocabulary), float32.

        Only these positions pass through the output head.

        Raises:
            PositionsExceededError: a row exceeds the model's positions.
            FloatingPointError: a log-probability is NaN.
        """
        longest = max(rows, key=len)
        check_length(len(longest), self.positions, self.lm.decode(longest))
        batch = self.lm.pad(rows)
        index = torch.tensor(positions, device=self.lm.device)
        with select_positions(self.lm, index[:, 0], index[:, 1]):
            logits = self.lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        logprobs: Tensor = logits.float().log_softmax(-1)
        if bool(logprobs.isnan().any()):
            raise FloatingPointError("the model's probabilities are not numbers")
        return logprobs


def kl_divergence(before: Tensor, now: Tensor) -> float:
    """Return KL(before || now) in nats, summed in float64.

    Tokens with probability 0 in ``before`` contribute nothing.

    Args:
        before: log-probabilities of shape (vocabulary,).
        now: log-probabilities of shape (vocabulary,).

    Raises:
        FloatingPointError: the divergence is not finite, because a token has probability 0 in ``now`` only.
    """
    possible = before > -torch.inf
    p, q = in_float64(before[possible]), in_float64(now[possible])
    value = float((p.exp() * (p - q)).sum())
    if not math.isfinite(value):
        raise FloatingPointError("the divergence from the unedited model is not a number")
    return max(0.0, value)
