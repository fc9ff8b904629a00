"""Tensors of files that many edits read, kept in memory up to a share of what is free."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...benchmark.models.device_state import free_bytes

SHARE = 0.25
"""Share of the free memory of a device that the tensors may take, measured at the first file."""


class LoadedFiles:
    """Reads safetensors files and keeps the tensors of those that were used last.

    MEMIT reads a float64 matrix of (m, m) in each of five layers at every edit: 5 GB for a model of Llama 2 7B's width.
    The tensors must not be changed.

    Args:
        limit: maximum number of bytes to keep; None takes :data:`SHARE` of the free memory. A larger file is read at
            each call.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._kept: dict[tuple[Path, torch.device], dict[str, Tensor]] = {}

    def load(self, path: Path, device: torch.device) -> dict[str, Tensor]:
        """Return the tensors of a file by name, on a device."""
        key = path, device
        if (kept := self._kept.pop(key, None)) is not None:
            self._kept[key] = kept  # the last one is the one used last
            return kept
        tensors = {name: tensor.to(device) for name, tensor in load_file(path).items()}
        if self._limit is None:
            self._limit = int(SHARE * free_bytes(device))
        while self._kept and self._bytes() + _bytes(tensors) > self._limit:
            self._kept.pop(next(iter(self._kept)))
        if _bytes(tensors) <= self._limit:
            self._kept[key] = tensors
        return tensors

    def _bytes(self) -> int:
        return sum(_bytes(tensors) for tensors in self._kept.values())


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
