"""BIRD: ROME with a loss that relates the edited subject to the new object in both directions.

Ma et al. 2023, "Untying the Reversal Curse via Bidirectional Language Model Editing" (arXiv 2310.10322). The loss of
ROME's value gets alpha times the term of :mod:`~knbench.editors.shared.relation_term`,

    sum_c |s_c + r_c - o*_c| + |o*_c + r'_c - s_c| - beta (|s_c + r_c - o_c| + |o_c + r'_c - s_c|),

with the vectors of the subject s, the new object o*, the old object o, and the words r and r' of the relation and of
its inverse, in every context c. It is a sum over contexts and grows with their number. The bound that ends the
optimisation applies to the loss without the term. With alpha = 0 the method is ROME.

The words of a relation come from the task's templates without their slots; the released code has words written by hand.
The vector of a relation without words is 0: a phenomenon has no inverse, and often no word between cue and target. A
task that states no relation gives the words of the edited prompt, and none for the inverse. For beta above 1 the term
has no lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..benchmark.core.schema import SLOT, EditRequest
from ..benchmark.editing import Edit, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .rome import Rome, RomeConfig
from .shared.published import published
from .shared.relation_term import RelationTerm
from .shared.value_vectors import value_vectors


@dataclass(frozen=True, kw_only=True)
class BirdConfig(RomeConfig):
    """Hyper-parameters of BIRD: those of ROME, and the weights of the term."""

    alpha: float = hyperparameter(2e-4, help="Weight of the term; 0 gives ROME.")
    beta: float = hyperparameter(1.0, help="Weight of the old object in the term.")
    relation: tuple[str, ...] | None = hyperparameter(
        None,
        help="Words from the subject to the object and from the object to the subject, separated by |; none takes "
        "those of the task.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0 or self.beta < 0:
            raise ValueError("alpha and beta must not be negative")
        if self.relation is not None and (len(self.relation) != 2 or not all(self.relation)):
            raise ValueError("relation needs two texts, for example 'has the capital|is the capital of'")


class Bird(Rome):
    """Bidirectional rank-one model editing."""

    name = "bird"
    summary = "As ROME, with a value that relates subject and new object in both directions"
    paper = "Ma et al. 2023, Untying the Reversal Curse"
    Config = BirdConfig
    published = published("bird")
    needs_rival = True

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one update per request; their value vectors are optimised jointly.

        Raises:
            ValueError: a request has no true answer, or its value vector cannot be computed.
        """
        self.check_requests(requests)
        config = self.config
        assert isinstance(config, BirdConfig)
        contexts = self.contexts(lm)
        penalties = None
        if config.alpha > 0:
            relations = [self.relation(request) for request in requests]
            terms = [
                RelationTerm(lm, request, relation, config.layer, contexts, config.beta)
                for request, relation in zip(requests, relations, strict=True)
            ]
            penalties = [lambda delta, term=term: config.alpha * term(delta) for term in terms]
        vectors = value_vectors(lm, requests, config.layer, contexts, config.objective, penalties=penalties)
        return [self.write(lm, request, vector) for request, vector in zip(requests, vectors, strict=True)]

    def relation(self, request: EditRequest) -> tuple[str, str]:
        """Return the words of a request's relation and of its inverse; an empty text stands for none."""
        config = self.config
        assert isinstance(config, BirdConfig)
        if config.relation is not None:
            forward, inverse = config.relation
            return forward, inverse
        return request.relation or (" ".join(request.prompt.replace(SLOT, " ").split()), "")
