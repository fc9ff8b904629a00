"""Reference implementation of ROME's value vectors: every step runs all tokens of all contexts through all layers.

It processes one request at a time and shares only the model and the tokenisation with the fast implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from knbench.benchmark.core.schema import EditRequest
from knbench.benchmark.models.language_model import LanguageModel
from knbench.editors.shared.value_vectors import ValueObjective
from torch import Tensor


def slow_value_vector(
    lm: LanguageModel,
    request: EditRequest,
    layer: int,
    contexts: Sequence[str],
    objective: ValueObjective,
    site: str = "mlp",
) -> dict[str, Any]:
    """Return ``key``, ``bare_key``, ``value``, ``bare_value`` and ``losses`` of one request, as in ValueVector.

    Args:
        lm: a causal model.
        request: the request.
        layer: the layer.
        contexts: templates with a ``{}`` for the prompt, the first being ``{}`` itself.
        objective: parameters of the optimisation.
        site: ``mlp`` or ``block``, whose output is optimised.
    """
    texts, subjects, targets = [], [], []
    for context in contexts:
        template = context.replace("{}", request.prompt, 1)
        prompt, target = lm.split(template.replace("{}", request.subject, 1), request.target_new)
        _, span = lm.subject_span(template, request.subject)
        texts.append(list(prompt + target[:-1]))
        subjects.append(span[-1])
        targets.append((len(prompt) - 1, target))
    tokens, span = lm.subject_span("{} is a", request.subject)
    texts.append(list(tokens.ids))
    subjects.append(span[-1])
    width = max(map(len, texts))
    ids = torch.tensor([text + [lm.start_id] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    captured: dict[str, Tensor] = {}

    delta: Tensor | None = None

    def neurons(_module: Any, args: Any) -> None:
        captured["k"] = args[0].detach()

    def site_output(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (site_output(_module, _args, output[0]), *output[1:])
        if delta is None:
            captured["v"] = output.detach().clone()
            return output
        output = output.clone()
        for i, position in enumerate(subjects):
            output[i, position] = output[i, position] + delta
        return output

    handles = [
        lm.mlp_out(layer).register_forward_pre_hook(neurons),
        (lm.mlp(layer) if site == "mlp" else lm.block(layer)).register_forward_hook(site_output),
    ]
    try:
        with torch.no_grad():
            lm.model(input_ids=ids, attention_mask=mask)
        key = torch.stack([captured["k"][i, subjects[i]] for i in range(len(contexts))]).mean(0)
        bare_key, v0 = captured["k"][0, subjects[0]], captured["v"][0, subjects[0]]
        delta = torch.zeros_like(v0, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=objective.learning_rate)
        losses: list[float] = []
        reference: Tensor | None = None
        for iteration in range(objective.steps):
            logprobs = lm.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            nlls = []
            for i, (start, target) in enumerate(targets):
                token_logprobs = [logprobs[i, start + j, token] for j, token in enumerate(target)]
                nlls.append(-torch.stack(token_logprobs).mean())
            kl_logprobs = logprobs[-1, subjects[-1]]
            reference = kl_logprobs.detach() if reference is None else reference
            kl = (kl_logprobs.exp() * (kl_logprobs - reference)).sum()
            decay = objective.weight_decay * delta.norm() / v0.norm() ** 2
            loss = torch.stack(nlls).mean() + objective.kl_factor * kl + decay
            losses.append(float(loss.detach()))
            if losses[-1] < objective.stop_below or iteration == objective.steps - 1:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            limit = objective.clamp * v0.norm()
            if delta.norm() > limit:
                with torch.no_grad():
                    delta *= limit / delta.norm()
    finally:
        for handle in handles:
            handle.remove()
    return {
        "key": key,
        "bare_key": bare_key,
        "value": (v0 + delta).detach(),
        "bare_value": v0,
        "losses": losses,
    }
