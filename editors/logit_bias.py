"""Logit bias: a control that adds the smallest sufficient constant to one logit of the output head.

It changes how probable a word is everywhere, and knows nothing about the subject, the prompt or the phenomenon. An edit
should do better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..benchmark.core.schema import EditRequest
from ..benchmark.editing import Edit, Editor, hyperparameter
from ..benchmark.models.language_model import LanguageModel
from .shared.batches import query_logits

TOLERANCE = 1e-4
"""Difference in nats from the margin that counts as none."""
ROUNDS = 20
"""Maximum number of steps towards the margin. One suffices, unless the model caps or rounds its logits."""


@dataclass(frozen=True)
class LogitBiasConfig:
    """Hyper-parameters of the control."""

    margin: float = hyperparameter(1.0, help="Margin in nats by which the edited prompt prefers the new token.")


class LogitBias(Editor[LogitBiasConfig]):
    """Adds a constant to the logit of the first token in which the new target differs from the true answer."""

    name = "logit-bias"
    summary = "Control: the smallest constant on one token's logit that makes the edited prompt prefer the new target"
    kind = "control"
    Config = LogitBiasConfig
    needs_rival = True

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute one constant per request, each as if it were the only one. A token takes the largest of its own.

        Raises:
            ValueError: a target cannot be tokenised after its prompt, or the tokens of the new target begin with all
                tokens of the true answer.
        """
        found = [self.constant(lm, request) for request in requests]
        constants: dict[int, float] = {}
        for token, constant in found:
            constants[token] = max(constants.get(token, 0.0), constant)
        diagnostics = {"tokens": [token for token, _ in found], "constants": [round(c, 6) for _, c in found]}
        return Edit(
            outputs={lm.module_name(lm.head): adder(constants)},
            diagnostics=diagnostics,
            memory={"constants": torch.tensor([*constants.values()])},
            entries=len(requests),
        )

    def constant(self, lm: LanguageModel, request: EditRequest) -> tuple[int, float]:
        """Return the id of the token to raise, and the smallest constant of at least 0, in nats.

        With the constant, log P(new token) - log P(true token) is at least ``margin`` after the edited prompt and the
        tokens that both answers share. In a masked model the two tokens may belong to sentences with different numbers
        of masks.

        Raises:
            ValueError: see :meth:`edit`.
        """
        new = lm.token_queries(request.text, request.target_new, ".")
        true = lm.token_queries(request.text, request.target_true, ".")
        pair = next(((a, b) for a, b in zip(new, true, strict=False) if a.token != b.token), None)
        if pair is None:
            if len(new) < len(true):  # the true answer continues the new target, which is more probable in any case
                return new[0].token, 0.0
            raise ValueError(
                f"the tokens of {request.target_new!r} begin with all tokens of {request.target_true!r} after "
                f"{request.text!r}, which makes it less probable whatever the constant is"
            )
        token, other = pair[0].token, pair[1].token
        head, constant = lm.module_name(lm.head), 0.0
        sufficient: list[float] = []
        for _ in range(ROUNDS):
            with Edit(outputs={head: adder({token: constant})}).applied(lm):
                logprobs = query_logits(lm, pair).log_softmax(-1)
            missing = self.config.margin - float(logprobs[0, token] - logprobs[1, other])
            if missing <= TOLERANCE:
                sufficient.append(constant)
                if constant == 0 or missing >= -TOLERANCE:
                    break
            # A nat of the constant raises the preference by one nat if both tokens are predicted in one pass.
            constant = max(0.0, constant + missing)
        if sufficient:
            return token, min(sufficient)
        raise ValueError(f"no constant makes {request.target_new!r} preferred after {request.text!r}")


def adder(constants: Mapping[int, float]) -> Callable[[Tensor], Tensor]:
    """Return a function that adds constants to the logits of some token ids."""
    tokens, values = list(constants), torch.tensor([*constants.values()])

    def add(logits: Tensor) -> Tensor:
        changed = logits.clone()
        changed[..., tokens] += values.to(logits)
        return changed

    return add
