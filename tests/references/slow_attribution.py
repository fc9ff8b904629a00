"""Integrated gradients the slow, obvious way: for one layer after the other the whole text through the whole model.

Ten points of a layer's integral are one batch, as in the public implementations.
"""

from __future__ import annotations

from typing import Any

import torch
from knbench.benchmark.models.attribution import Integral
from knbench.benchmark.models.language_model import LanguageModel
from torch import Tensor

BATCH = 10


def probability_with(
    lm: LanguageModel, ids: Tensor, position: int, token: int, layer: int, site: str, value: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return P(token) at a position with the site's values there replaced, (row,), and what they were in row 0.

    ``ids`` has shape (row, position), ``value`` (row, m) or (m,).
    """
    seen: dict[str, Tensor] = {}

    def put(state: Tensor) -> Tensor:
        seen["w"] = state[0, position].detach()
        if value is None:
            return state
        state = state.clone()
        state[:, position] = value
        return state

    if site == "neurons":
        handle = lm.mlp_out(layer).register_forward_pre_hook(lambda _m, args: (put(args[0]),))
    else:
        handle = lm.mlp_in(layer).register_forward_hook(lambda _m, _a, output: put(output))
    try:
        logits: Any = lm.model(input_ids=ids).logits
    finally:
        handle.remove()
    return logits[:, position].softmax(-1)[:, token], seen["w"]


def slow_attributions(lm: LanguageModel, prompt: str, target: str, integral: Integral, suffix: str = ".") -> Tensor:
    """Return attributions of shape (layer, m)."""
    per_token = []
    for row, position, token in lm.token_queries(prompt, target, suffix):
        ids = torch.tensor([row])
        layers = []
        for layer in range(lm.n_layers):
            with torch.no_grad():
                _, neurons = probability_with(lm, ids, position, token, layer, integral.site, None)
            total = torch.zeros_like(neurons)
            for points in integral.points().split(BATCH):
                values = (points[:, None] * neurons).requires_grad_()
                batch = ids.expand(len(values), -1)
                probabilities, _ = probability_with(lm, batch, position, token, layer, integral.site, values)
                total += torch.autograd.grad(probabilities.sum(), values)[0].sum(0)
            layers.append(neurons * total / integral.steps)
        per_token.append(torch.stack(layers))
    return torch.stack(per_token).mean(0)
