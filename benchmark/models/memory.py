"""Memories: stores beside the weights that change the output of a module for the texts that they concern."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..core.errors import KnbenchError
from ..core.schema import JsonObject
from ..core.schema import digest as json_digest
from .reading import Reading


class MissingReadingError(KnbenchError):
    """The model has an active memory, and a forward pass does not say which tokens are the prompt."""


class OutputFunctionError(Exception):
    """A memory or an output function raised the exception that is the cause, or returned another shape or type."""


@dataclass(frozen=True)
class Memory(ABC):
    """A store of facts beside one module, which replaces or changes the output of the module for some texts.

    A memory is immutable: a method returns a new one with each edit, which contains the earlier facts. Its tensors are
    no parameters of the model.

    Attributes:
        tensors: detached tensors by name.
        settings: JSON values by name.
        entries: number of facts in the memory.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)
    entries: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    @abstractmethod
    def act(self, inputs: Tensor, outputs: Tensor, reading: Reading) -> Tensor:
        """Return the output of the module. The arguments must be left unchanged.

        Whether the memory acts on a text is decided from its prompt when the prompt ends, kept in ``reading.notes``,
        and valid for the whole text. A row depends neither on the other rows nor on padding. A row on which the memory
        does not act is returned bit for bit.

        Args:
            inputs: input of the module, (batch, position, in).
            outputs: its output, (batch, position, out).
            reading: the rows of the pass.
        """

    def digest(self) -> str:
        """Return a sha256 over the class, the settings, the number of entries, and the tensors."""
        kind = type(self)
        return content_digest(f"{kind.__module__}.{kind.__qualname__}|{self.entries}", self.tensors, self.settings)


def content_digest(label: str, tensors: Mapping[str, Tensor], settings: JsonObject) -> str:
    """Return a sha256 over a label, settings, and name, dtype, shape and bytes of tensors.

    Raises:
        TypeError: a setting cannot be written as JSON.
        ValueError: a setting is NaN or infinite.
    """
    hashed = hashlib.sha256(f"{label}|{json_digest(dict(settings))}".encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        hashed.update(memoryview(flat))
    return hashed.hexdigest()


def act_checked(memory: Memory, name: str, inputs: Tensor, outputs: Tensor, reading: Reading | None) -> Tensor:
    """Let a memory act on the output of a module.

    Args:
        memory: the memory.
        name: name of the module, for messages.
        inputs: input of the module, (batch, position, in).
        outputs: its output, (batch, position, out).
        reading: the rows of the pass, or None.

    Raises:
        MissingReadingError: the reading is missing, or it describes rows of another shape.
        OutputFunctionError: the memory raised an exception, or returned another shape or type.
    """
    kind = type(memory).__name__
    if reading is None:
        raise MissingReadingError(
            f"memory {kind} at '{name}' needs to know where the prompts end; run the model inside "
            "'with lm.reading(batch, prompts):', or inside 'with lm.without_memories():'"
        )
    if tuple(reading.mask.shape) != tuple(inputs.shape[:2]):
        raise MissingReadingError(
            f"memory {kind} at '{name}' got rows of shape {tuple(inputs.shape[:2])}, and lm.reading describes rows of "
            f"shape {tuple(reading.mask.shape)}; pass the batch that the model reads"
        )
    try:
        new: object = memory.act(inputs, outputs, reading)
    except torch.OutOfMemoryError:  # a smaller batch can succeed
        raise
    except Exception as error:
        raise OutputFunctionError(f"memory {kind} at '{name}' raised {type(error).__name__}: {error}") from error
    if not isinstance(new, Tensor) or new.shape != outputs.shape or new.dtype != outputs.dtype:
        found = f"{new.dtype} of shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        expected = f"{outputs.dtype} of shape {tuple(outputs.shape)}"
        raise OutputFunctionError(f"memory {kind} at '{name}' returned {found}; the output is {expected}")
    return new
