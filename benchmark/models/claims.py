"""Checks of what a configuration claims before memory is allocated for it, and a guard against pickled files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from ..core.errors import KnbenchError

LIMITS: Mapping[str, int] = {
    "num_hidden_layers": 2_000,
    "num_attention_heads": 20_000,
    "hidden_size": 200_000,
    "intermediate_size": 2_000_000,
    "vocab_size": 20_000_000,
    "max_position_embeddings": 200_000_000,
}
"""Maximum values of a configuration, far above those of any model."""
_HARMLESS = 10_000_000
"""Number of weights that may be missing from the files without harm; another check names the tensors."""
_BYTES_PER_WEIGHT = 0.25
"""Minimum size of a stored weight; GGUF files have down to two bits."""


def check_claims(label: str, config: Any, stored_bytes: int | None) -> None:
    """Check that the sizes in a configuration are those of a model, and that its weights can fill them.

    transformers allocates what a configuration claims and fills what the files lack with random numbers.

    Args:
        label: name of the model in messages.
        config: configuration of transformers.
        stored_bytes: size of the weights files; None if it is unknown.

    Raises:
        KnbenchError: a size is not a positive number, exceeds its limit, or implies more weights than the files can
            contain.
    """
    text = config.get_text_config()
    for name, limit in LIMITS.items():
        value = getattr(text, name, None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
            raise KnbenchError(
                f"model '{label}': config.json states {name} {str(value)[:40]}; it must be between 1 and {limit}"
            )
    layers, width = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    if stored_bytes is None or not isinstance(layers, int) or not isinstance(width, int):
        return
    vocabulary = getattr(text, "vocab_size", None) or 0
    weights = layers * width**2 + vocabulary * width  # at least: an attention projection per layer, the embedding
    if weights > max(stored_bytes / _BYTES_PER_WEIGHT, _HARMLESS):
        raise KnbenchError(
            f"model '{label}': config.json implies at least {weights:.2g} weights ({layers} layers of width {width}), "
            f"and its weights files have {stored_bytes} bytes; use the config.json that belongs to the weights"
        )


@contextmanager
def no_pickled_files() -> Iterator[None]:
    """Make ``torch.load`` fail while a block runs: ``with no_pickled_files(): ...``.

    transformers chooses the reader of a file by its name, which an index or an adapter states.

    Raises:
        KnbenchError: the block reads a pickled file.
    """
    import torch

    def refuse(file: Any, *arguments: Any, **options: Any) -> NoReturn:
        del arguments, options
        name = str(getattr(file, "name", file)).rpartition("/")[2]
        raise KnbenchError(f"the model names the pickled file '{name}'; only safetensors and GGUF files are read")

    original = torch.load
    torch.load = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = original
