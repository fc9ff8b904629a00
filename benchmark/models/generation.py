"""Generation of text without the settings that a model's authors chose for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Values of a model's generation config that are kept: ids of special tokens."""

_INERT = {"_from_model_config", "transformers_version", "use_cache", "output_attentions", "output_hidden_states"}


def sampling_settings(model: Any) -> list[str]:
    """Return the names of the values in a model's generation config that ``generate`` would apply, sorted."""
    own = model.generation_config.to_diff_dict()
    return sorted(name for name, value in own.items() if value is not None and name not in {*KEPT, *_INERT})


@contextmanager
def default_generation_config(model: Any) -> Iterator[None]:
    """``with default_generation_config(model): model.generate(...)`` uses only the arguments of ``generate``.

    ``generate`` completes its arguments from ``model.generation_config``, which comes from the model's folder and may
    contain, for example, ``repetition_penalty``, ``min_p`` or ``suppress_tokens``. Such a value changes which text is
    sampled. The model's own generation config is restored at the end.

    Args:
        model: a transformers model that can generate.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(own, name, None) for name in KEPT})
    try:
        yield
    finally:
        model.generation_config = own
