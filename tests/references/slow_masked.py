"""Reference implementation of probing on a masked model: one unbatched forward pass per token."""

from __future__ import annotations

import torch
from knbench.benchmark.core.schema import Probe
from knbench.benchmark.models.language_model import LanguageModel
from torch import Tensor


def slow_masked_answer(lm: LanguageModel, probe: Probe, answer: str) -> list[float]:
    """Return the log-probability of each token of an answer, or of each token of a sentence, masked in turn."""
    if probe.kind == "minimal_pair":
        sentence, special = lm.tokenizer(answer).input_ids, lm.tokenizer.all_special_ids
        places = [i for i, token in enumerate(sentence) if token not in special]
        rows = [[*sentence[:i], lm.mask_id, *sentence[i + 1 :]] for i in places]
        return [float(_logprobs(lm, row, i)[sentence[i]]) for row, i in zip(rows, places, strict=True)]
    queries = lm.token_queries(probe.prompt, answer, probe.suffix)
    return [float(_logprobs(lm, query.ids, query.position)[query.token]) for query in queries]


def slow_fill(lm: LanguageModel, probe: Probe) -> str:
    """Fill the masks of a target from left to right, each with the most probable token."""
    queries = lm.token_queries(probe.prompt, probe.target, probe.suffix)
    ids, filled = list(queries[0].ids), []
    for query in queries:
        ids[query.position] = int(_logprobs(lm, ids, query.position).argmax())
        filled.append(ids[query.position])
    return lm.decode(filled)


def _logprobs(lm: LanguageModel, ids: list[int] | tuple[int, ...], position: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = lm.model(input_ids=torch.tensor([ids])).logits
    return logits[0, position].log_softmax(-1)
