"""Reference implementation of causal tracing: a full forward pass per state, without caches."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from knbench.benchmark.analyses.tracing import KINDS, TraceSettings, layer_windows, sample_noise
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.models.hooks import capture, edit_output
from knbench.benchmark.models.language_model import LanguageModel
from torch import Tensor


@torch.no_grad()
def slow_effects(lm: LanguageModel, request: EditRequest, scale: float, settings: TraceSettings) -> dict[str, Tensor]:
    """Return the indirect effects of each kind, of shape (position, layer), as :func:`trace` does."""
    context, target = lm.split(request.text, request.target_true)
    _, span = lm.subject_span(request.prompt, request.subject)
    noise = scale * sample_noise(lm, request, len(span), settings)
    modules: dict[str, Any] = {}
    for n in range(lm.n_layers):
        modules |= {f"state{n}": lm.block(n), f"mlp{n}": lm.mlp(n), f"attention{n}": lm.attention(n)}
    ids = torch.tensor([context] * settings.samples)
    with capture({name: (module, "output") for name, module in modules.items()}) as clean:
        lm.model(input_ids=ids[:1], use_cache=False)

    def probability(restored: list[str], position: int) -> float:
        with ExitStack() as stack:
            stack.enter_context(edit_output(lm.model.get_input_embeddings(), lambda x: corrupt(x, span, noise)))
            for name in restored:
                value = clean[name][0, position]
                stack.enter_context(edit_output(modules[name], lambda x, v=value: replace(x, position, v)))
            logits = lm.model(input_ids=ids, use_cache=False).logits
        return float(logits[:, -1].float().softmax(-1)[:, target[0]].mean())

    corrupted = probability([], 0)
    effects = {}
    for kind in KINDS:
        windows = (
            [range(n, n + 1) for n in range(lm.n_layers)]
            if kind == "state"
            else layer_windows(lm.n_layers, settings.window)
        )
        effects[kind] = torch.tensor(
            [
                [probability([f"{kind}{n}" for n in layers], position) - corrupted for layers in windows]
                for position in range(len(context))
            ]
        )
    return effects


def corrupt(x: Tensor, span: range, noise: Tensor) -> Tensor:
    x = x.clone()
    x[:, span[0] : span[-1] + 1] += noise
    return x


def replace(x: Tensor, position: int, value: Tensor) -> Tensor:
    x = x.clone()
    x[:, position] = value
    return x
