"""Greedy continuations of prompts that a forward pass has read, from the keys and values of this pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, DynamicLayer

from ..models.language_model import LanguageModel, Padded
from .base import Row
from .layouts import Layout

Question = tuple[Row, int]
"""Tokens of a context, and the number of these that belong to its prompt; 0 on a model without memories."""


@dataclass(frozen=True)
class CachedTexts:
    """Keys and values of texts, aligned at their last tokens as in a batch that is padded on the left.

    Attributes:
        layers: keys and values of each layer, each of shape (text, head, position, head size).
        mask: which positions are real tokens, (text, position).
        lengths: number of tokens of each text, (text,).
        prompts: number of tokens of each text that belong to its prompt, for memories, (text,).
        notes: decisions of memories, by key, each with one row per text.
    """

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor
    lengths: Tensor
    prompts: Tensor
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def gather(
        cls,
        cache: Any,
        layout: Layout,
        texts: Sequence[tuple[Row, int]],
        prompts: int = 0,
        notes: Mapping[str, Tensor] | None = None,
    ) -> CachedTexts:
        """Take the keys and values of texts from the cache of a pass.

        Args:
            cache: the cache.
            layout: the layout of the pass.
            texts: texts of the layout, and the number of their first tokens to take.
            prompts: number of tokens of the prompts of all texts, for memories.
            notes: decisions of memories in this pass, with one row per row of the pass.
        """
        paths = [layout.path(text, beginning) for text, beginning in texts]
        width, device = max(beginning for _, beginning in texts), layout.batch.ids.device
        rows = torch.tensor([[row] for row, _ in paths], device=device)
        columns = torch.tensor([[0] * (width - len(path)) + list(path) for _, path in paths], device=device)
        lengths = torch.tensor([len(path) for _, path in paths], device=device)

        def taken(states: Tensor) -> Tensor:
            return states.transpose(1, 2)[rows.to(states.device), columns.to(states.device)].transpose(1, 2)

        return cls(
            [(taken(layer.keys), taken(layer.values)) for layer in cache.layers],
            (torch.arange(width, device=device)[None] >= width - lengths[:, None]).long(),
            lengths,
            torch.full_like(lengths, prompts),
            {key: note[rows[:, 0].to(note.device)] for key, note in (notes or {}).items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[CachedTexts]) -> CachedTexts:
        """Return the texts of several passes, whose memories have written the same notes."""
        width = max(part.mask.shape[1] for part in parts)

        def joined(states: Sequence[Tensor]) -> Tensor:
            return torch.cat([pad(state, (0, 0, width - state.shape[2], 0)) for state in states])

        return cls(
            [
                (joined([keys for keys, _ in layer]), joined([values for _, values in layer]))
                for layer in zip(*(part.layers for part in parts), strict=True)
            ],
            torch.cat([pad(part.mask, (width - part.mask.shape[1], 0)) for part in parts]),
            torch.cat([part.lengths for part in parts]),
            torch.cat([part.prompts for part in parts]),
            {key: torch.cat([part.notes[key] for part in parts]) for key in parts[0].notes},
        )


class Decoder:
    """Continues cached texts token by token.

    Args:
        lm: the model.
        texts: the texts.
    """

    def __init__(self, lm: LanguageModel, texts: CachedTexts) -> None:
        self._lm, self._steps = lm, 0
        self._lengths, self._prompts, self._notes = texts.lengths, texts.prompts, dict(texts.notes)
        self._read, self._mask = texts.mask, texts.mask
        self._takes_positions = "position_ids" in inspect.signature(lm.model.forward).parameters
        self._cache = DynamicCache()
        for number, (keys, values) in enumerate(texts.layers):
            self._cache.update(keys, values, number)

    def step(self, tokens: Tensor) -> Tensor:
        """Read the next token of each text, (text,), and return the logits after it, (text, vocabulary), float32."""
        batch = Padded(tokens[:, None], self._read, self._lengths)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        inputs = {"position_ids": (self._lengths + self._steps)[:, None]} if self._takes_positions else {}
        self._steps += 1
        with self._lm.reading(batch, self._prompts.tolist()) as reading:
            if reading is not None:
                reading.notes.update(self._notes)
            out = self._lm.model(
                input_ids=tokens[:, None],
                attention_mask=self._mask,
                past_key_values=self._cache,
                use_cache=True,
                **inputs,
            )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        """Continue only some texts, (text,)."""
        self._cache.batch_select_indices(rows)
        self._read, self._mask, self._lengths = self._read[rows], self._mask[rows], self._lengths[rows]
        self._prompts = self._prompts[rows]
        self._notes = {key: note[rows.to(note.device)] for key, note in self._notes.items()}


def continue_greedily(
    lm: LanguageModel, texts: CachedTexts, first: Sequence[int], lengths: Sequence[int]
) -> list[list[int]]:
    """Continue texts with the most probable tokens. A text that is complete leaves the batch.

    Args:
        lm: the model.
        texts: the texts.
        first: the first new token of each text.
        lengths: number of new tokens of each text, at least 1. It ends earlier with an end-of-text token.

    Returns:
        The new tokens of each text.
    """
    ends = end_tokens(lm)
    found, decoder = [[token] for token in first], Decoder(lm, texts)
    active = list(range(len(found)))
    while True:
        going = [n for n, i in enumerate(active) if len(found[i]) < lengths[i] and found[i][-1] not in ends]
        if not going:
            return found
        if len(going) < len(active):
            active = [active[n] for n in going]
            decoder.keep(torch.tensor(going, device=texts.lengths.device))
        logits = decoder.step(torch.tensor([found[i][-1] for i in active], device=texts.lengths.device))
        for i, token in zip(active, logits.argmax(-1).tolist(), strict=True):
            found[i].append(token)


class Continuations:
    """Collects the states of contexts from the passes that read them, and continues the contexts in batches.

    Args:
        lm: the model.
        lengths: number of new tokens by context.
        batch_size: largest number of contexts that are continued together, unless one pass has more.
    """

    def __init__(self, lm: LanguageModel, lengths: Mapping[Question, int], batch_size: int) -> None:
        self._lm, self._lengths, self._size = lm, lengths, batch_size
        self._questions: list[Question] = []
        self._first: list[int] = []
        self._parts: list[CachedTexts] = []
        self._done: dict[Question, list[int]] = {}

    def want(self, context: Row, prompt: int) -> bool:
        """Return whether a context is to be continued that a pass reads as one with a prompt of some tokens."""
        return (context, prompt) in self._lengths

    def collect(self, contexts: Sequence[Row], prompt: int, first: Sequence[int], states: CachedTexts) -> None:
        """Add contexts of a pass with the first new token of each.

        Args:
            contexts: the contexts.
            prompt: number of tokens of their prompts, see :data:`Question`.
            first: the first new token of each.
            states: their states, in the same order.
        """
        if len(self._questions) + len(contexts) > self._size:
            self._continue()
        self._questions += [(context, prompt) for context in contexts]
        self._first += first
        self._parts.append(states)

    def finish(self) -> dict[Question, list[int]]:
        """Continue the contexts that are left, and return the new tokens of all."""
        self._continue()
        return self._done

    def _continue(self) -> None:
        if self._questions:
            lengths = [self._lengths[question] for question in self._questions]
            new = continue_greedily(self._lm, CachedTexts.joined(self._parts), self._first, lengths)
            self._done.update(zip(self._questions, new, strict=True))
        self._questions, self._first, self._parts = [], [], []


def end_tokens(lm: LanguageModel) -> frozenset[int]:
    """Return the tokens after which the model's text is complete."""
    config: Any = getattr(lm.model, "generation_config", None)
    ends: int | Sequence[int] | None = getattr(config, "eos_token_id", None)
    return frozenset(() if ends is None else (ends,) if isinstance(ends, int) else ends)


def holds_all_tokens(cache: Any, width: int) -> bool:
    """Return whether a cache has the keys and values of all tokens of a pass, so that texts can be taken from it.

    Args:
        cache: the cache after the pass.
        width: number of positions of the pass.
    """
    layers = getattr(cache, "layers", [])
    return bool(layers) and all(
        type(layer) is DynamicLayer and layer.keys is not None and layer.keys.shape[-2] == width for layer in layers
    )
