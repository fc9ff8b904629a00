"""Reference implementation of integrated gradients: one layer at a time, each with full passes through the model.

A batch holds ten points of a layer's integral, as in the public implementations of Dai et al. 2022 (knowledge neurons).
"""

from __future__ import annotations

from typing import Any

import torch
from knbench.benchmark.models.attribution import Integral
from knbench.benchmark.models.language_model import LanguageModel
from torch import Tensor

BATCH = 10
"""Points of the integral per forward pass."""


def probability_with(
    lm: LanguageModel, ids: Tensor, position: int, token: int, layer: int, site: str, value: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return P(token) at a position after replacing the values of a site there, and the site's original values.

    Args:
        lm: the model.
        ids: token ids of shape (row, position).
        position: where the token is predicted and the site's values are replaced.
        token: id of the predicted token.
        layer: the layer of the site.
        site: ``neurons``, the input of the MLP's output projection; otherwise the output of its input projection.
        value: the new values, of shape (row, m) or (m,), or None to keep the original ones.

    Returns:
        The probabilities of shape (row,), and the original values of row 0, of shape (m,).
    """
    captured: dict[str, Tensor] = {}

    def replace(state: Tensor) -> Tensor:
        captured["w"] = state[0, position, : lm.n_neurons].detach()  # a fused projection: gate first
        if value is None:
            return state
        state = state.clone()
        state[:, position, : lm.n_neurons] = value
        return state

    if site == "neurons":
        handle = lm.mlp_out(layer).register_forward_pre_hook(lambda _m, args: (replace(args[0]),))
    else:
        handle = lm.mlp_in(layer).register_forward_hook(lambda _m, _a, output: replace(output))
    try:
        logits: Any = lm.model(input_ids=ids).logits
    finally:
        handle.remove()
    return logits[:, position].softmax(-1)[:, token], captured["w"]


def slow_attributions(lm: LanguageModel, prompt: str, target: str, integral: Integral, suffix: str = ".") -> Tensor:
    """Return the attributions of a target, of shape (layer, m), averaged over its tokens."""
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
