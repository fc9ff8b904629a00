"""Facts as sentences, and how well a prompt fits each of them: by shared words, or by hidden states."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ...benchmark.core.schema import EditRequest, JsonObject
from ...benchmark.core.text import join_answer
from ...benchmark.models.hooks import Side, capture, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel

_ENDINGS = ("'s", "ies", "ing", "es", "ed", "s")
_SHORTEST = 4
"""A stem keeps at least this number of letters."""


def sentence(request: EditRequest) -> str:
    """Return the new fact of a request as a sentence without a full stop."""
    return join_answer(request.text, request.target_new)


def stems(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, without common English endings.

    >>> sorted(stems("The cities' capital, and its towns"))
    ['and', 'capital', 'citi', 'its', 'the', 'town']
    """
    found = set()
    for word in re.findall(r"\w+(?:'s)?", text.casefold()):
        ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= _SHORTEST), "")
        stem = word[: len(word) - len(ending)] if ending else word
        found.add(stem + "i" if ending == "ies" else stem.removesuffix("'s"))
    return frozenset(found)


def word_weights(texts: Sequence[str]) -> JsonObject:
    """Return the number of texts, and for each stem in at least two of them the number of its texts."""
    counts = Counter(stem for text in texts for stem in stems(text))
    return {"texts": len(texts), "counts": {stem: n for stem, n in sorted(counts.items()) if n > 1}}


def lexical_score(query: Collection[str], fact: Collection[str], weights: JsonObject) -> float:
    """Return the share of a fact's stems that a query contains, each weighted by its inverse document frequency.

    Args:
        query: stems of the query.
        fact: stems of the fact.
        weights: see :func:`word_weights`. A stem that is not listed counts as one of a single text.
    """
    counts: Mapping[str, int] = weights["counts"]

    def weight(stem: str) -> float:
        return math.log((1 + weights["texts"]) / (1 + counts.get(stem, 1))) + 0.1

    total = sum(weight(stem) for stem in sorted(fact))
    return sum(weight(stem) for stem in sorted(fact) if stem in query) / total if total else 0.0


def embeddings(lm: LanguageModel, texts: Sequence[str], layer: int) -> Tensor:
    """Return the mean hidden state behind a block over the tokens of each text, (text, d), float32.

    Special tokens at the start are left out. Memories are switched off.
    """
    first = torch.zeros(1, dtype=torch.long, device=lm.device)
    wanted: dict[str, tuple[torch.nn.Module, Side]] = {"h": (lm.block(layer), "output")}
    rows = []
    for text in texts:  # one by one: the result does not depend on other texts, not even in the last bits
        batch = lm.pad([lm.encode(text).ids])
        with (
            torch.no_grad(),
            lm.without_memories(),
            capture(wanted) as captured,
            stop_after(lm, layer),
            select_positions(lm, first, first),
        ):
            lm.model(input_ids=batch.ids, attention_mask=batch.mask)
        rows.append(captured["h"][0, lm.leading_tokens :].float().mean(0))
    return torch.stack(rows)


def merged(texts: Sequence[str], prompts: Sequence[str], requests: Sequence[EditRequest]) -> list[int | EditRequest]:
    """Return what a memory holds after new requests: numbers of its earlier facts, and requests.

    A new fact replaces an earlier one with the same prompt.

    Args:
        texts: sentences of the earlier facts.
        prompts: their prompts.
        requests: the new facts, in order.
    """
    kept: dict[str, int | EditRequest] = {prompt: i for i, prompt in enumerate(prompts[: len(texts)])}
    for request in requests:
        kept.pop(request.text, None)  # the later one moves to the end and wins ties
        kept[request.text] = request
    return list(kept.values())
