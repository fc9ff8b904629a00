"""ROME's key and value the slow, obvious way: every step runs every token of every context through every layer.

Nothing is shared with the fast version but the model and the tokenisation. One request at a time.
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
    """Return key, bare_key, value, bare_value and losses of one request."""
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
    seen: dict[str, Tensor] = {}

    delta: Tensor | None = None

    def neurons(_module: Any, args: Any) -> None:
        seen["k"] = args[0].detach()

    def site_output(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (site_output(_module, _args, output[0]), *output[1:])
        if delta is None:
            seen["v"] = output.detach()
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
        key = torch.stack([seen["k"][i, subjects[i]] for i in range(len(contexts))]).mean(0)
        bare_key, v0 = seen["k"][0, subjects[0]], seen["v"][0, subjects[0]]
        delta = torch.zeros_like(v0, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=objective.learning_rate)
        losses: list[float] = []
        unmoved: Tensor | None = None
        for step in range(objective.steps):
            logprobs = lm.model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            nlls = []
            for i, (start, target) in enumerate(targets):
                steps = [logprobs[i, start + j, token] for j, token in enumerate(target)]
                nlls.append(-torch.stack(steps).mean())
            now = logprobs[-1, subjects[-1]]
            unmoved = now.detach() if unmoved is None else unmoved
            kl = (now.exp() * (now - unmoved)).sum()
            decay = objective.weight_decay * delta.norm() / v0.norm() ** 2
            loss = torch.stack(nlls).mean() + objective.kl_factor * kl + decay
            losses.append(float(loss.detach()))
            if losses[-1] < objective.stop_below or step == objective.steps - 1:
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
