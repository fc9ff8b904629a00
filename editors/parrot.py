"""Parrot: a control that says the new target after every text, through a bias on the output head.

It is right wherever the new target is asked for, and wrong everywhere else. A score of edits must not reward it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.language_model import LanguageModel, TokenQuery
from .shared.batches import query_logits

GAP = 1.0
"""Minimum difference in nats between the next token of the target and its other tokens."""


@dataclass(frozen=True)
class ParrotConfig:
    """Hyper-parameters of the control."""

    bias: float = hyperparameter(
        50.0, help="Bias in nats against all other tokens, on top of the one that the edited prompt needs."
    )

    def __post_init__(self) -> None:
        if self.bias <= 0:
            raise ValueError("bias must be above 0")


class Parrot(Editor[ParrotConfig]):
    """Lowers the logits of all tokens except those of the new target.

    One bias per token cannot depend on the text. A target of several tokens is spelt by the model itself, which chooses
    among the target's tokens alone. Small offsets between them make it say each token at its place after the edited
    prompt, and begin again after the last.
    """

    name = "parrot"
    summary = "Control: a bias on the output head, with which the model says the new target after every text"
    kind = "control"
    Config = ParrotConfig

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute the bias, (vocabulary,). The tokens of several targets share it.

        The diagnostics say for each request whether the model spells the target after its prompt.

        Raises:
            ValueError: a target cannot be tokenised after its prompt.
        """
        raised: dict[int, float] = {}
        needed, spelt = 0.0, []
        size = 0
        for request in requests:
            queries = spelling(lm, request)
            logits = query_logits(lm, queries)
            own, size = offsets(logits, queries), logits.shape[-1]
            tokens = list(own)
            lifted = logits[:, tokens] + torch.tensor([*own.values()], device=logits.device)
            said = torch.tensor([tokens.index(query.token) for query in queries], device=logits.device)
            spelt.append(bool((lifted.argmax(-1) == said).all()))
            needed = max(needed, float((logits.amax(-1) - lifted.amax(-1)).max()))
            for token, offset in own.items():
                raised[token] = max(raised.get(token, 0.0), offset)
        bias = torch.full((size,), -(self.config.bias + needed), device=lm.device)
        bias[list(raised)] = torch.tensor([*raised.values()], device=lm.device)
        return Edit(
            outputs={lm.module_name(lm.head): lambda logits: logits + bias.to(logits)},
            diagnostics={"others": float(bias.min()), "spelt": spelt},
            memory={"bias": bias},
            entries=len(requests),
        )


def spelling(lm: LanguageModel, request: EditRequest) -> list[TokenQuery]:
    """Return one query per token of the new target; for a causal model also the first token after the last."""
    queries = lm.token_queries(request.text, request.target_new, ".")
    if lm.causal:
        ids = (*queries[-1].ids, queries[-1].token)
        queries.append(TokenQuery(ids, len(ids) - 1, queries[0].token))
    return queries


def offsets(logits: Tensor, queries: Sequence[TokenQuery]) -> dict[int, float]:
    """Return the smallest offsets with which each query's token exceeds the target's other tokens by :data:`GAP`.

    The conditions b[t_k] - b[t] >= l_k[t] - l_k[t_k] + GAP are difference constraints, which the method of Bellman and
    Ford solves in as many rounds as there are tokens. All offsets are 0 if they contradict each other.

    Args:
        logits: logits at the queries, (query, vocabulary).
        queries: the queries of a target.

    Returns:
        Offsets in nats by token id.
    """
    tokens = list(dict.fromkeys(query.token for query in queries))
    values = dict.fromkeys(tokens, 0.0)
    for _ in range(len(tokens)):
        changed = False
        for row, query in zip(logits[:, tokens].tolist(), queries, strict=True):
            current = dict(zip(tokens, row, strict=True))
            others = [values[t] + current[t] + GAP for t in tokens if t != query.token]
            least = max(others, default=-float("inf")) - current[query.token]
            if least > values[query.token] + 1e-9:
                values[query.token], changed = least, True
        if not changed:
            return values
    return dict.fromkeys(tokens, 0.0)
