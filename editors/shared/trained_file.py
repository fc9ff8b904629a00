"""Trained tensors in the user's cache folder, with the state of an interrupted training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...benchmark.core.files import cache_folder, exclusive
from ...benchmark.models.memory import content_digest


class TrainedFile:
    """The file of one training, named by a digest of everything that decides it.

    Args:
        editor: name of the method.
        key: digest of the model's weights, the cases, the hyper-parameters and the seed.
    """

    def __init__(self, editor: str, key: str) -> None:
        self.path = cache_folder() / "trained" / f"{editor}-{key[:24]}.safetensors"

    def locked(self) -> AbstractContextManager[None]:
        """Wait until no other process trains the same, in a ``with`` block."""
        return exclusive(self.path)

    def result(self) -> dict[str, Tensor] | None:
        """Return the tensors of a complete training, or None."""
        return _loaded(self.path)

    def partial(self) -> dict[str, Tensor] | None:
        """Return the tensors of an interrupted training, or None."""
        return _loaded(self._partial)

    def save_partial(self, tensors: Mapping[str, Tensor]) -> None:
        """Store the state of a training, from which it can continue."""
        _save(self._partial, tensors)

    def save_result(self, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a complete training, and remove the state."""
        _save(self.path, tensors)
        self._partial.unlink(missing_ok=True)

    @property
    def _partial(self) -> Path:
        return self.path.with_suffix(".partial")


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a sha256 of tensors by name."""
    return content_digest("trained", tensors, {})


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, new)
    new.replace(path)  # a killed process leaves the old file


def _loaded(path: Path) -> dict[str, Tensor] | None:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return None
    return tensors
