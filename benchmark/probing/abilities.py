"""Which fast passes a causal model computes correctly, found by trying them on a few tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.language_model import LanguageModel
from .base import Row
from .continuations import CachedTexts, Decoder, holds_all_tokens
from .layouts import PACKED_TOKENS, Layout, packed, padded
from .passages import PASSAGES
from .positions import max_positions

TOLERANCE = 1e-3
"""Largest difference of log-probabilities, in nats, between a fast pass and a plain one of the same texts."""
TOLERANCE_HALF = 0.25
"""The same for a type of 16 bits. A wrong mask or position changes them by several nats."""


@dataclass(frozen=True)
class Abilities:
    """Fast passes that equal plain ones on a model.

    Attributes:
        packing: largest number of tokens of a packed row, see :mod:`.layouts`; 0 if the model cannot read such rows. It
            has to accept positions and a mask, and its attention must not depend on the order of keys.
        continues: whether texts can be continued from the keys and values of a pass. Models without such a cache, as
            recurrent ones, cannot. See :mod:`.continuations`.
    """

    packing: int = 0
    continues: bool = False


@torch.inference_mode()
def abilities(lm: LanguageModel) -> Abilities:
    """Try packed rows and cached texts on two texts that begin alike."""
    ids = lm.encode(PASSAGES[0]).ids
    limit = max_positions(lm)
    if len(ids) < 9 or (limit is not None and limit < 6):
        return Abilities()
    texts = (ids[:6], ids[:3] + ids[6:9])
    with lm.without_memories():
        plain = _logits(lm, padded(lm, texts), texts)
        return Abilities(_packing(lm, texts, plain), _continues(lm, texts, plain))


def _packing(lm: LanguageModel, texts: tuple[Row, ...], plain: list[Tensor]) -> int:
    parameters = inspect.signature(lm.model.forward).parameters
    if not {"position_ids", "attention_mask"} <= set(parameters):
        return 0
    try:
        found = _logits(lm, packed(lm, texts), texts)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a model that does not accept the mask fails in its own way
        return 0
    config: Any = lm.model.config.get_text_config()
    windows = [
        lm.attention_window,
        getattr(config, "sliding_window", None),
        getattr(config, "attention_chunk_size", None),
    ]
    width = min([PACKED_TOKENS, *(window for window in windows if isinstance(window, int) and window > 0)])
    return width if all(_equal(a, b) for a, b in zip(plain, found, strict=True)) else 0


def _continues(lm: LanguageModel, texts: tuple[Row, ...], plain: list[Tensor]) -> bool:
    if not {"past_key_values", "use_cache"} <= set(inspect.signature(lm.model.forward).parameters):
        return False
    layout, beginnings = padded(lm, texts), (3, 5)
    try:
        cache = lm.model(**layout.inputs, past_key_values=DynamicCache(), use_cache=True).past_key_values
        if not holds_all_tokens(cache, layout.batch.ids.shape[1]):
            return False
        decoder = Decoder(lm, CachedTexts.gather(cache, layout, list(zip(texts, beginnings, strict=True))))
        tokens = [text[n] for text, n in zip(texts, beginnings, strict=True)]
        found = decoder.step(torch.tensor(tokens, device=lm.device))
    except torch.OutOfMemoryError:
        raise
    except Exception:
        return False
    return all(_equal(a[n], b) for a, b, n in zip(plain, found, beginnings, strict=True))


def _logits(lm: LanguageModel, layout: Layout, texts: tuple[Row, ...]) -> list[Tensor]:
    """Return the logits at each token of the texts, (position, vocabulary)."""
    logits = lm.model(**layout.inputs, use_cache=False).logits
    return [logits[row, list(columns)] for row, columns in (layout.paths[text] for text in texts)]


def _equal(plain: Tensor, found: Tensor) -> bool:
    a, b = plain.float().log_softmax(-1), found.float().log_softmax(-1)
    tolerance = TOLERANCE if plain.dtype in (torch.float32, torch.float64) else TOLERANCE_HALF
    return bool(((a - b).abs() <= tolerance).all())
