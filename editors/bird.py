"""BIRD: ROME with a loss that relates the edited subject to the new object in both directions.

Ma et al. 2023, "Untying the Reversal Curse via Bidirectional Language Model Editing" (arXiv 2310.10322). The loss of
ROME's value gets alpha times the term of :mod:`~knbench.editors.shared.relation_term`,

    sum_c |s_c + r_c - o*_c| + |o*_c + r'_c - s_c| - beta (|s_c + r_c - o_c| + |o_c + r'_c - s_c|),

with the vectors of the subject s, the new object o*, the old object o, and the words r and r' of the relation and of
its inverse, in every context c. It is a sum over contexts and grows with their number. The bound that ends the
optimisation applies to the loss without the term. With alpha = 0 the method is ROME.

The words of a relation are written by hand in ``editors/relations.yaml``, as in the released code, which has others; a
prompt that is not in the table is refused. For beta above 1 the term has no lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from ..benchmark.core.schema import EditRequest
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
        help="Words from the subject to the object and from the object to the subject, separated by |; none looks up "
        "the prompt in editors/relations.yaml.",
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
            ValueError: a request has no true answer or no words for its relation, or its value vector cannot be
                computed.
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
        """Return the words of a request's relation and of its inverse.

        Raises:
            ValueError: the config has none and the prompt is not in the table.
        """
        config = self.config
        assert isinstance(config, BirdConfig)
        found = config.relation or _relations().get(request.prompt)
        if found is None:
            raise ValueError(
                f"'{self.name}' has no words for the relation of the prompt {request.prompt!r}; add it to "
                "editors/relations.yaml or set relation to 'forward words|inverse words'"
            )
        return found[0], found[1]


@cache
def _relations() -> dict[str, list[str]]:
    table: dict[str, list[str]] = yaml.safe_load(
        files("knbench.editors").joinpath("relations.yaml").read_text(encoding="utf-8")
    )
    return table
