"""What a memory is told about a forward pass: which tokens are the prompt, and where the prompt ends.

A memory decides at the end of the prompt whether it acts on a text. Without this information it could only look at the
last token of a row, which in teacher forcing belongs to the scored answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """The rows of a forward pass. Tensors are on the device of the model's input.

    Attributes:
        mask: whether each token is real and not padding, (batch, position), bool.
        prompt: whether each token belongs to the prompt, (batch, position), bool. BOS and other special tokens do not.
        end: column of the last prompt token in this pass, (batch,). It is -1 if the token lies in the past of a cache,
            or if the row has no prompt, as a sentence that is scored as a whole. For a masked model it is the column of
            the first mask.
        first: whether this pass starts the texts; False for passes that continue a cache.
        notes: decisions of memories by their own key, each with one row per text. A memory writes them in the first
            pass and reads them in the passes that continue it.
    """

    mask: Tensor
    prompt: Tensor
    end: Tensor
    first: bool = True
    notes: dict[str, Tensor] = field(default_factory=dict)

    @property
    def has_prompt(self) -> Tensor:
        """Whether each row has a prompt that ends in this pass, (batch,), bool."""
        return self.end >= 0

    def continued(self, past: int, length: int) -> Reading:
        """Return the reading of a pass that continues a cache. It shares the notes of this one.

        Args:
            past: number of positions in the cache.
            length: number of positions of the pass.
        """
        if past == 0:
            return self
        rows, width = self.mask.shape
        columns = range(past, past + length)
        known = [c for c in columns if c < width]
        mask = torch.ones((rows, length), dtype=torch.bool, device=self.mask.device)
        prompt = torch.zeros_like(mask)
        mask[:, : len(known)] = self.mask[:, known]
        prompt[:, : len(known)] = self.prompt[:, known]
        end = torch.where(self.end >= past, self.end - past, -1)
        return replace(self, mask=mask, prompt=prompt, end=end, first=False)


def make_reading(mask: Tensor, prompts: Sequence[int], special: int, ends: Sequence[int] | None = None) -> Reading:
    """Return the reading of padded rows.

    Args:
        mask: attention mask, (batch, position).
        prompts: number of tokens of each row up to the end of its prompt, special tokens included; 0 for a row without
            a prompt.
        special: number of special tokens at the start of each row.
        ends: column of the decision, counted from the start of the row without padding; None takes the last prompt
            token. A row without a prompt has no decision.
    """
    real = mask.bool()
    starts = real.int().argmax(1)
    lengths = torch.tensor(list(prompts), device=mask.device)
    offsets = torch.arange(mask.shape[1], device=mask.device)[None] - starts[:, None]
    prompt = (offsets >= special) & (offsets < lengths[:, None]) & real
    last = lengths - 1 if ends is None else torch.tensor(list(ends), device=mask.device)
    return Reading(real, prompt, torch.where(lengths > 0, starts + last, -1))
