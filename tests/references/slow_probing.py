"""One forward pass per answer and no batch: what the prober must agree with."""

from __future__ import annotations

import torch
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.models.language_model import LanguageModel

ROUNDING = 1e-3


def slow_answer(lm: LanguageModel, prompt: str, answer: str) -> dict[str, object]:
    """Return logprob, token_logprobs, ranks and argmax of one answer.

    ``rank_bounds`` are the ranks that each token may have where log-probabilities are off by :data:`ROUNDING`.
    """
    context, ids = lm.split(prompt, answer)
    logs, ranks, argmax, bounds = [], [], [], []
    for i, token in enumerate(ids):
        with torch.no_grad():
            row = lm.model(input_ids=torch.tensor([context + ids[:i]])).logits[0, -1].log_softmax(-1)
        logs.append(row[token].item())
        ranks.append(int((row > row[token]).sum()))
        argmax.append(int(row.argmax()))
        bounds.append((int((row > row[token] + ROUNDING).sum()), int((row > row[token] - ROUNDING).sum())))
    return {"logprob": sum(logs), "token_logprobs": logs, "ranks": ranks, "argmax": argmax, "rank_bounds": bounds}


def slow_greedy(lm: LanguageModel, probe: Probe, new_tokens: int) -> str:
    """Continue a prompt greedily, one whole forward pass a token."""
    ids = list(lm.split(probe.prompt, probe.target)[0])
    start = len(ids)
    for _ in range(new_tokens):
        with torch.no_grad():
            ids.append(int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == lm.tokenizer.eos_token_id:
            break
    return lm.decode(ids[start:])
