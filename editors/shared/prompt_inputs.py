"""Inputs of a module at the tokens of prompts, from which memories make their keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...benchmark.models.hooks import Side, capture, select_positions, stop_after
from ...benchmark.models.language_model import LanguageModel
from ...benchmark.models.reading import Reading, make_reading

ROWS = 32
"""Number of prompts per pass."""

Prompt = tuple[str, str]
"""A prompt and its answer, whose number of tokens decides how many masks a masked model reads."""


def prompt_inputs(lm: LanguageModel, prompts: Sequence[Prompt], layer: int) -> list[tuple[Tensor, Reading]]:
    """Return the inputs of a layer's MLP output projection for prompts, in batches, with their readings.

    A causal model reads the prompts alone. Memories are switched off.

    Args:
        lm: the model, which is left unchanged.
        prompts: prompts with answers.
        layer: the layer.

    Returns:
        For each batch, the inputs of shape (prompt, position, m), and which of the positions are prompts.

    Raises:
        ValueError: an answer cannot be tokenised after its prompt.
    """
    wanted: dict[str, tuple[nn.Module, Side]] = {"x": (lm.mlp_out(layer), "input")}
    first = torch.zeros(1, dtype=torch.long, device=lm.device)
    found = []
    for start in range(0, len(prompts), ROWS):
        queries = [lm.token_queries(prompt, answer, ".")[0] for prompt, answer in prompts[start : start + ROWS]]
        batch = lm.pad([query.ids for query in queries])
        ends = [query.position for query in queries]
        with (
            torch.no_grad(),
            lm.without_memories(),
            capture(wanted) as captured,
            stop_after(lm, layer),
            select_positions(lm, first, first),
        ):
            lm.model(input_ids=batch.ids, attention_mask=batch.mask)
        found.append((captured["x"].detach(), reading_of(lm, batch.mask, ends)))
    return found


def reading_of(lm: LanguageModel, mask: Tensor, ends: Sequence[int]) -> Reading:
    """Return the reading of rows whose decision is taken at some columns, as the probers describe them.

    Args:
        lm: the model.
        mask: attention mask, (batch, position).
        ends: column of the last token of the prompt in a causal model, and of the first mask in a masked model.
    """
    prompts = [end + 1 if lm.causal else end for end in ends]
    return make_reading(mask, prompts, lm.leading_tokens, ends)


def inputs_at_end(lm: LanguageModel, prompts: Sequence[Prompt], layer: int) -> Tensor:
    """Return the input of a layer's MLP output projection at the end of each prompt, (prompt, m).

    Raises:
        ValueError: an answer cannot be tokenised after its prompt.
    """
    parts = [x[torch.arange(len(x), device=x.device), reading.end] for x, reading in prompt_inputs(lm, prompts, layer)]
    return torch.cat(parts)
