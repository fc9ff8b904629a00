"""The interface that probers share: measuring probes on a model, and the values that they return.

A causal and a masked model are measured differently and described alike; see :mod:`.causal` and :mod:`.masked`.
:func:`.prober.make_prober` chooses between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.records import Observation
from ..core.schema import Case, Probe
from ..models.hooks import select_positions
from ..models.language_model import LanguageModel
from .divergence import divergences
from .passages import PassageReference, PassageRow, passage_rows, shared_positions, stack_positions
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
        passages: predictions for the passages of the criterion ``integrity``, the same for all tasks.
    """

    distributions: MutableMapping[Position, Tensor] = field(default_factory=dict)
    passages: PassageReference = field(default_factory=PassageReference)


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
    def reference_key(self, probe: Probe) -> Position:
        """Return the key of a completion in :attr:`Reference.distributions`.

        Raises:
            ValueError: the target cannot be tokenised after the prompt.
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

        See :class:`~..core.records.Observation` for the fields of each kind of probe. ``kl`` and ``js`` are set for
        ``unchanged`` completions if ``compare_to`` is given, and for passages always.

        Args:
            probes: the probes to measure.
            save_to: receives the distributions of the ``unchanged`` completion probes and of the passages, unless it
                has the passages. Pass it when measuring the unedited model.
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
                plain = [probe for probe in probes if probe.kind != "passages"]
                observations = iter(self._observe(plain, save_to, compare_to) if plain else [])
                if len(plain) == len(probes):
                    return list(observations)
                passages = self._read_passages(save_to, compare_to)
                return [passages if probe.kind == "passages" else next(observations) for probe in probes]
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2

    @abstractmethod
    def _observe(
        self, probes: Sequence[Probe], save_to: Reference | None, compare_to: Reference | None
    ) -> list[Observation]:
        """Measure every probe once with the current batch size; see :meth:`observe`."""

    @torch.inference_mode()
    def _read_passages(self, save_to: Reference | None, compare_to: Reference | None) -> Observation:
        """Read the passages once, however many cases ask for them, and return the mean divergence per token.

        Raises:
            FloatingPointError: a probability is NaN, or a divergence is not finite.
            ValueError: neither the unedited model is measured nor are its predictions given.
        """
        rows = passage_rows(self.lm)
        if save_to is not None:
            if not save_to.passages.logprobs:
                save_to.passages.logprobs += self._passage_logprobs(rows)
                save_to.passages.ends += [tuple(sorted(row.columns)) for row in rows]
            return Observation(kl=0.0, js=0.0)
        if compare_to is None or not compare_to.passages.logprobs:
            raise ValueError("the unedited model has not read the passages")
        reference = compare_to.passages
        kl, js = [], []
        for row, ends, before, now in zip(
            rows, reference.ends, reference.logprobs, self._passage_logprobs(rows), strict=True
        ):
            both = divergences(*shared_positions(row, ends, before, now))
            kl.append(both[0])
            js.append(both[1])
        return Observation(kl=float(torch.cat(kl).mean()), js=float(torch.cat(js).mean()))

    def _passage_logprobs(self, rows: Sequence[PassageRow]) -> list[Tensor]:
        """Return the log-probabilities of each passage, of shape (positions, vocabulary)."""
        found: list[Tensor] = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            logprobs = self._logprobs([row.ids for row in batch], stack_positions(batch), [0] * len(batch))
            found += [part.clone() for part in torch.split(logprobs, [len(row.columns) for row in batch])]
        return found

    def _check_passages(self) -> None:
        """Check that the passages fit the model's positions after its prompt prefix.

        Raises:
            ValueError: they do not.
        """
        for row in passage_rows(self.lm):
            check_length(len(row.ids), self.positions, self.lm.decode(row.ids))

    def _logprobs(
        self,
        rows: Sequence[Sequence[int]],
        positions: Sequence[tuple[int, int]],
        prompts: Sequence[int],
        ends: Sequence[int] | None = None,
    ) -> Tensor:
        """Return log-probabilities at ``(row index, column)`` positions, of shape (position, vocabulary), float32.

        Only these positions pass through the output head.

        Args:
            rows: token ids of each row.
            positions: where the model predicts a token.
            prompts: number of tokens of each row that belong to its prompt, for memories; 0 without a prompt. See
                :meth:`.LanguageModel.reading`.
            ends: columns at which memories decide; None takes the last tokens of the prompts.

        Raises:
            PositionsExceededError: a row exceeds the model's positions.
            FloatingPointError: a log-probability is NaN.
        """
        longest = max(rows, key=len)
        check_length(len(longest), self.positions, self.lm.decode(longest))
        batch = self.lm.pad(rows)
        index = torch.tensor(positions, device=self.lm.device)
        with self.lm.reading(batch, prompts, ends), select_positions(self.lm, index[:, 0], index[:, 1]):
            logits = self.lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return checked_logprobs(logits)


def checked_logprobs(logits: Tensor) -> Tensor:
    """Return log-probabilities in float32 from logits of shape (position, vocabulary).

    Raises:
        FloatingPointError: a log-probability is NaN.
    """
    logprobs: Tensor = logits.float().log_softmax(-1)
    if bool(logprobs.isnan().any()):
        raise FloatingPointError("the model's probabilities are not numbers")
    return logprobs


def token_ranks(logprobs: Tensor, ids: Sequence[int], best: int) -> list[int]:
    """Return the number of tokens that the model prefers to each token: that are more probable, or equal and ``best``.

    Without the second part, every token of a collapsed model, whose logits are all equal, would be its first choice.

    Args:
        logprobs: log-probabilities of shape (vocabulary,).
        ids: the tokens.
        best: the most probable token that the model chooses.
    """
    counts: list[int] = (logprobs > logprobs[list(ids), None]).sum(-1).tolist()
    return [count or int(token != best) for token, count in zip(ids, counts, strict=True)]
