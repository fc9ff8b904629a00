"""Next-token distributions of the unedited model in bounded memory, for units of many cases."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from typing import IO, NamedTuple

import torch
from torch import Tensor

from .base import Position


class _Place(NamedTuple):
    file: IO[bytes]
    offset: int
    length: int
    device: torch.device


class StoredDistributions(MutableMapping[Position, Tensor]):
    """Log-probabilities of shape (vocabulary,), float32, by position, kept in a temporary file.

    A vector is read bit for bit as it was set, so that the divergence of a model from itself is exactly 0. Each look-up
    reads the file and returns a new tensor on the device of the vector that was set. The file is in the folder for
    temporary files (``TMPDIR``) and ends with the process.

    Raises:
        OSError: on setting a vector, if the disk is full.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="knbench-")  # noqa: SIM115
        self._places: dict[Position, _Place] = {}

    def absorb(self, other: Mapping[Position, Tensor]) -> None:
        """Add all vectors of another mapping; those that are in a file are shared, not copied."""
        if isinstance(other, StoredDistributions):
            self._places.update(other._places)
        else:
            self.update(other)

    def __setitem__(self, key: Position, vector: Tensor) -> None:
        place = _Place(self._file, self._file.seek(0, 2), vector.numel(), vector.device)
        self._file.write(vector.detach().cpu().contiguous().numpy().tobytes())
        self._places[key] = place

    def __getitem__(self, key: Position) -> Tensor:
        file, offset, length, device = self._places[key]
        file.seek(offset)
        return torch.frombuffer(bytearray(file.read(4 * length)), dtype=torch.float32).to(device)

    def __delitem__(self, key: Position) -> None:
        del self._places[key]

    def __iter__(self) -> Iterator[Position]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
