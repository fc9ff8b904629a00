"""Reference implementation of probing on a causal model: one unbatched forward pass per token."""

from __future__ import annotations

import torch
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.models.language_model import LanguageModel

ROUNDING = 1e-3
"""Tolerance of a log-probability in nats, within which the order of two tokens may change between machines."""


def slow_answer(lm: LanguageModel, prompt: str, answer: str) -> dict[str, object]:
    """Return ``logprob``, ``token_logprobs``, ``ranks``, ``argmax`` and ``rank_bounds`` of one answer.

    The first four are defined in :meth:`~knbench.benchmark.probing.base.Prober.observe`. ``rank_bounds`` holds the
    lowest and the highest rank of each token if log-probabilities deviate by up to :data:`ROUNDING`.
    """
    context, ids = lm.split(prompt, answer)
    logprobs, ranks, argmax, bounds = [], [], [], []
    for i, token in enumerate(ids):
        with torch.no_grad():
            row = lm.model(input_ids=torch.tensor([context + ids[:i]])).logits[0, -1].log_softmax(-1)
        logprobs.append(row[token].item())
        ranks.append(int((row > row[token]).sum()))
        argmax.append(int(row.argmax()))
        bounds.append((int((row > row[token] + ROUNDING).sum()), int((row > row[token] - ROUNDING).sum())))
    return {
        "logprob": sum(logprobs),
        "token_logprobs": logprobs,
        "ranks": ranks,
        "argmax": argmax,
        "rank_bounds": bounds,
    }


def slow_greedy(lm: LanguageModel, probe: Probe, new_tokens: int) -> str:
    """Continue a prompt greedily by at most ``new_tokens`` tokens, with one full forward pass per token."""
    ids = list(lm.split(probe.prompt, probe.target)[0])
    start = len(ids)
    for _ in range(new_tokens):
        with torch.no_grad():
            ids.append(int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == lm.tokenizer.eos_token_id:
            break
    return lm.decode(ids[start:])
