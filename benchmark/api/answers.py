"""Answers of a model to questions about an edit, before and after it: the next tokens, a continuation, and KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import KnbenchError, first_line
from ..core.records import Observation
from ..core.schema import Case, EditRequest, Probe
from ..models.language_model import LanguageModel
from ..probing.base import Reference
from ..probing.prober import make_prober
from .questions import Question

TOP_TOKENS = 5
"""Number of most probable next tokens of an answer."""
CONTINUATION = 14
"""Number of tokens of a continuation."""


@dataclass(frozen=True)
class Token:
    """A next token.

    Attributes:
        text: the token as text, with the space that may precede it.
        probability: its probability, between 0 and 1.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What a model says after a prompt.

    Attributes:
        top: the most probable next tokens, the most probable one first. Of a masked model, those at the first mask of
            the wanted answer.
        continuation: the greedy continuation. A masked model fills the masks of the wanted answer.
        wanted: probability of the wanted answer, all its tokens, between 0 and 1. The wanted answer of a question
            without one is the new target of the edit.
        old: probability of the answer before the edit, or None if the edit states none.
        kl: KL(unedited || this model) of the next token, in nats; None on the unedited model.
    """

    top: tuple[Token, ...]
    continuation: str
    wanted: float
    old: float | None = None
    kl: float | None = None


class Interviewer:
    """Asks a model questions about an edit. The numbers are those of a run's probes.

    Args:
        lm: the model, unedited when a question is asked the first time.
        request: the edit.
        tokens: minimum length of continuations, in tokens.
    """

    def __init__(self, lm: LanguageModel, request: EditRequest, tokens: int = CONTINUATION) -> None:
        self.lm, self.request = lm, request
        self._prober = make_prober(lm, new_tokens=tokens)
        self._unedited = Reference()

    def check(self, questions: Sequence[Question]) -> None:
        """Check that the model can read the edit and the questions.

        Raises:
            KnbenchError: the tokenizer cannot separate an answer from its prompt, or a text is too long.
        """
        self._check(f"the edit of '{self.request.text}'")
        for question in questions:
            self._check(f"the question '{question.prompt}'", self._probe(question))

    def _check(self, what: str, *probes: Probe) -> None:
        try:
            self._prober.check(Case("edit", self.request, probes))
        except ValueError as error:
            raise KnbenchError(f"'{self.lm.name}' cannot read {what}: {first_line(error)}") from error

    def ask(self, questions: Sequence[Question], *, edited: bool) -> list[Answer]:
        """Return the model's answers.

        Args:
            questions: the questions.
            edited: whether the model is edited. Its distributions are then compared with the unedited model, which
                must have been asked the same questions.

        Raises:
            FloatingPointError: the model's probabilities are not numbers.
        """
        probes = [self._probe(question) for question in questions]
        now = Reference()
        observed = self._prober.observe(probes, save_to=now, compare_to=self._unedited if edited else None)
        if not edited:
            self._unedited.distributions.update(now.distributions)
        return [
            self._answer(probe, observation, now, edited=edited)
            for probe, observation in zip(probes, observed, strict=True)
        ]

    def _answer(self, probe: Probe, observation: Observation, now: Reference, *, edited: bool) -> Answer:
        best = now.distributions[self._prober.reference_key(probe)].topk(TOP_TOKENS)
        tokens = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Answer(
            top=tuple(Token(self.lm.decode([token]) or self._name(token), math.exp(value)) for token, value in tokens),
            continuation=observation.generated or "",
            wanted=math.exp(observation.target.logprob),
            old=None if observation.rival_answer is None else math.exp(observation.rival.logprob),
            kl=observation.kl if edited else None,
        )

    def _name(self, token: int) -> str:
        """Return the name of a special token, which has no text."""
        return str(self.lm.tokenizer.convert_ids_to_tokens(token))

    def _probe(self, question: Question) -> Probe:
        """Return a probe that is measured as a neighbour is, with its distribution."""
        target = question.wanted or self.request.target_new
        rival = self.request.target_true if target == self.request.target_new else ""
        return Probe("reliability", "completion", question.prompt, target, rival, "unchanged", (), question.suffix)
