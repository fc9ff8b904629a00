"""Hashes of a model's weights, and the detection of changes at a cost that does not grow with the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

SAMPLES = 64
"""Number of values that are compared in each parameter that shows no sign of a change."""

CHUNK = 2**22
"""Values that a GPU converts to integers at once, which takes about 100 MB."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
"""Type as which values are read, by their size in bytes. Two changed signs of 64-bit integers could cancel."""
_FACTORS = (0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9)

Mark = tuple[int, int, int | None]
"""Id of a parameter, address of its values, and torch's counter of in-place changes (None in inference mode)."""


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor, without a copy if it is contiguous in main memory."""
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat)


def weight_fingerprint(digests: Iterable[bytes]) -> str:
    """Return the hash of a model's weights from the digests of its parameters, in their order."""
    return str(xxhash.xxh3_128(b"".join(digests)).hexdigest())


def parameter_digest(parameter: Tensor) -> bytes:
    """Return a fast hash of a parameter's bytes. It is computed on the GPU for a parameter there."""
    if parameter.device.type == "cuda":
        return digest_in_place(parameter)
    digest: bytes = xxhash.xxh3_128(tensor_bytes(parameter)).digest()
    return digest


def digest_in_place(tensor: Tensor, chunk: int = CHUNK) -> bytes:
    """Return a hash of a tensor's bytes that is computed on its device, instead of copying the tensor to the CPU.

    It consists of two sums, modulo 2^64, of the values as integers times odd numbers that depend on their places. A
    change of one value always changes it, and the result does not depend on the order of the sums.

    Args:
        tensor: the tensor.
        chunk: number of values that are converted at once. It does not affect the result.
    """
    flat = tensor.detach().reshape(-1).view(_INTEGERS[tensor.element_size()])
    sums = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), chunk):
        values = flat[start : start + chunk].long()
        places = torch.arange(start, start + len(values), device=flat.device)
        for number, factor in enumerate(_FACTORS):
            mixed = places * factor
            mixed ^= mixed >> 29
            sums[number] += (values * (mixed * factor | 1)).sum()
    return bytes(tensor_bytes(sums))


class WeightMonitor:
    """Detects whether parameters of a model differ from their expected values.

    A complete check reads every parameter. A quick check reads the named parameters, those whose tensor was replaced or
    written in place, and :data:`SAMPLES` evenly spaced values of each other one. Torch does not count writes through
    ``parameter.data``; the quick check finds them if they change a sampled value.

    The values at construction, which reads all parameters, are the expected ones.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._indices: dict[tuple[int, torch.device], Tensor] = {}
        self._digests = {name: parameter_digest(parameter) for name, parameter in model.named_parameters()}
        self._sample = self._sampled()
        self._marks = {name: _mark(parameter) for name, parameter in model.named_parameters()}

    @property
    def fingerprint(self) -> str:
        """Hash of the expected values, equal to :meth:`LanguageModel.fingerprint` of a model that has them."""
        return weight_fingerprint(self._digests.values())

    def copy(self) -> WeightMonitor:
        """Return a monitor with the same expected values, whose :meth:`accept` does not change this one."""
        other = WeightMonitor.__new__(WeightMonitor)
        other.__dict__.update(self.__dict__)
        other._digests, other._marks = dict(self._digests), dict(self._marks)
        return other

    def changed(self, touched: Collection[str] = ()) -> list[str]:
        """Return the names of parameters that a quick check finds changed.

        Args:
            touched: names of the parameters to read completely.
        """
        parameters = dict(self._model.named_parameters())
        marks = {name: _mark(parameter) for name, parameter in parameters.items()}
        if marks.keys() != self._marks.keys() or self._sampled() != self._sample:
            return self.all_changed()
        suspects = [n for n, mark in marks.items() if n in touched or mark[2] is None or mark != self._marks[n]]
        found = [name for name in suspects if parameter_digest(parameters[name]) != self._digests[name]]
        if not found:
            self._marks = marks  # equal values at another address, or written and restored
        return found

    def all_changed(self) -> list[str]:
        """Return the names of all parameters that differ. Reads every parameter."""
        now = {name: parameter_digest(parameter) for name, parameter in self._model.named_parameters()}
        return [name for name in {**self._digests, **now} if self._digests.get(name) != now.get(name)]

    def accept(self, touched: Collection[str]) -> None:
        """Expect the values that some parameters have now, for example after an edit in a sequence.

        Args:
            touched: names of the parameters, which are read completely.
        """
        for name, parameter in self._model.named_parameters():
            if name in touched:
                self._digests[name], self._marks[name] = parameter_digest(parameter), _mark(parameter)
        self._sample = self._sampled()

    def _sampled(self) -> bytes:
        """Return a digest of evenly spaced values of each parameter, from the first to the last."""
        groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for parameter in self._model.parameters():
            if parameter.numel():
                sample = torch.take(parameter.detach(), self._index(parameter))
                groups.setdefault((parameter.dtype, parameter.device), []).append(sample)
        digest = xxhash.xxh3_128()
        for samples in groups.values():
            digest.update(tensor_bytes(torch.cat(samples)))
        found: bytes = digest.digest()
        return found

    def _index(self, parameter: Tensor) -> Tensor:
        key = parameter.numel(), parameter.device
        if key not in self._indices:
            last, count = parameter.numel() - 1, min(SAMPLES, parameter.numel())
            places = [last * i // max(count - 1, 1) for i in range(count)]
            self._indices[key] = torch.tensor(places, device=parameter.device)
        return self._indices[key]


def _mark(parameter: Tensor) -> Mark:
    return id(parameter), parameter.data_ptr(), None if parameter.is_inference() else parameter._version
