"""The number of positions of a model, and errors for texts that exceed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..models.language_model import LanguageModel

EXCERPT = 60
"""Number of characters of a text that a message quotes."""


class PositionsExceededError(ValueError):
    """A text has more tokens than the model has positions."""


def max_positions(lm: LanguageModel) -> int | None:
    """Return the number of tokens that a model can read, or None if its configuration sets no limit.

    Rotary models compute positions beyond the limit, too. They were not trained on them, so the limit holds as well.
    """
    config: Any = lm.model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    model: nn.Module = lm.model
    for name, module in model.named_modules():
        # RoBERTa numbers positions from the padding index, and its configuration counts the unused rows.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return limit - module.padding_idx - 1
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if isinstance(original, int) and isinstance(factor, int | float):
        limit = max(limit, int(original * factor))
    return limit


def check_length(length: int, limit: int | None, text: str, purpose: str = "") -> None:
    """Check that a text fits.

    Args:
        length: its number of tokens, with those that are generated after it.
        limit: the number of positions, or None.
        text: the text, which the message quotes.
        purpose: what the tokens include besides the text, for the message.

    Raises:
        PositionsExceededError: it does not fit.
    """
    if limit is not None and length > limit:
        quoted = text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."
        raise PositionsExceededError(f"{quoted!r} has {length} tokens{purpose}; the model has {limit} positions")


@contextmanager
def position_guard(lm: LanguageModel) -> Iterator[None]:
    """``with position_guard(lm): ...`` makes every forward pass check the length of its input.

    Raises:
        PositionsExceededError: an input exceeds the model's positions.
    """
    limit = max_positions(lm)

    def check(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids: Any = kwargs.get("input_ids", args[0] if args else None)
        if limit is None or getattr(ids, "dim", lambda: 0)() != 2:
            return
        past: Any = kwargs.get("past_key_values")
        mask: Any = kwargs.get("attention_mask")
        earlier = past.get_seq_length() if hasattr(past, "get_seq_length") else 0
        length = ids.shape[1] + earlier
        if length > limit and getattr(mask, "dim", lambda: 0)() == 2:
            length = int(mask.sum(-1).max())  # without padding
        check_length(length, limit, "..." * bool(earlier) + lm.decode(ids[0].tolist()))

    handle = lm.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
