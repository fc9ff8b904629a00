"""Layouts of texts in the rows of a forward pass of a causal model.

A padded layout has one row per text. A packed layout is one row in which texts share their common beginnings: each
token attends to the tokens before it in its text, and has its position in this text. Prompts of a case, and the answers
after a prompt, begin alike, so that a packed pass reads a third of the tokens of a padded one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..models.language_model import LanguageModel, Padded
from .base import Row

Item = TypeVar("Item")

PACKED_TOKENS = 512
"""Largest number of tokens of a packed row. The cost of its attention grows with the square."""


@dataclass(frozen=True)
class Layout:
    """Inputs of a forward pass.

    Attributes:
        batch: token ids and the mask of real tokens, (row, position).
        paths: for each text its row, and the column of each of its tokens.
        attention: additive attention mask, (1, 1, query, key), if the texts share a row; otherwise None.
        positions: position of each token in its text, (1, position), if the texts share a row; otherwise None.
    """

    batch: Padded
    paths: Mapping[Row, tuple[int, tuple[int, ...]]]
    attention: Tensor | None = None
    positions: Tensor | None = None

    def path(self, text: Row, beginning: int) -> tuple[int, tuple[int, ...]]:
        """Return row and columns of the first tokens of a text."""
        row, columns = self.paths[text]
        return row, columns[:beginning]

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the model's forward method."""
        if self.attention is None:
            return {"input_ids": self.batch.ids, "attention_mask": self.batch.mask}
        return {"input_ids": self.batch.ids, "attention_mask": self.attention, "position_ids": self.positions}


def padded(lm: LanguageModel, texts: Sequence[Row]) -> Layout:
    """Return a layout with one row per text, padded on the right."""
    return Layout(lm.pad(texts), {text: (row, tuple(range(len(text)))) for row, text in enumerate(texts)})


def packed(lm: LanguageModel, texts: Sequence[Row]) -> Layout:
    """Return a layout of all texts in one row, in which common beginnings occur once."""
    columns: dict[Row, int] = {}
    for text in texts:
        for end in range(1, len(text) + 1):
            columns.setdefault(text[:end], len(columns))
    visible = torch.zeros(len(columns), len(columns), dtype=torch.bool)
    for beginning, column in columns.items():  # a beginning follows those that it contains
        if len(beginning) > 1:
            visible[column] = visible[columns[beginning[:-1]]]
        visible[column, column] = True
    attention = torch.zeros(visible.shape, dtype=lm.dtype).masked_fill_(~visible, torch.finfo(lm.dtype).min)
    positions = torch.tensor([[len(beginning) - 1 for beginning in columns]], device=lm.device)
    paths = {text: (0, tuple(columns[text[: end + 1]] for end in range(len(text)))) for text in texts}
    batch = lm.pad([[beginning[-1] for beginning in columns]])
    return Layout(batch, paths, attention[None, None].to(lm.device), positions)


def packs(texts: Iterable[Row], size: int, width: int) -> Iterator[list[Row]]:
    """Divide texts into groups that fit a packed row.

    Args:
        texts: the texts in lexicographic order, in which those that begin alike follow each other.
        size: largest number of texts of a group.
        width: largest number of tokens of a packed row. A longer text is a group of its own.
    """
    group: list[Row] = []
    tokens = 0
    for text in texts:
        added = len(text) - (_common(group[-1], text) if group else 0)
        if group and (len(group) == size or tokens + added > width):
            yield group
            group, tokens, added = [], 0, len(text)
        group.append(text)
        tokens += added
    if group:
        yield group


def _common(a: Row, b: Row) -> int:
    """Return the number of tokens with which both texts begin."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Divide items into groups of a size; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))


def hosts(texts: Iterable[Row]) -> dict[Row, Row]:
    """Map each text to a longest one that begins with it, whose causal states it shares.

    >>> hosts([(1,), (1, 2), (3,)])
    {(3,): (3,), (1, 2): (1, 2), (1,): (1, 2)}
    """
    found: dict[Row, Row] = {}
    following: Row | None = None
    for text in sorted(texts, reverse=True):  # in lexicographic order the extensions of a text directly follow it
        found[text] = found[following] if following and following[: len(text)] == text else text
        following = text
    return found
