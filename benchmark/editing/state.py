"""State that a method hands from one sequential edit to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..core.schema import JsonObject
from ..core.schema import digest as json_digest


@dataclass(frozen=True)
class State:
    """Data of earlier edits that a method needs besides the edited model, for example the keys of earlier facts.

    A state is immutable: a method returns a new one with each edit. Tensors that did not change are shared between the
    states, not copied. The harness does not read a state, and it has no effect on the model.

    Attributes:
        tensors: detached tensors by name.
        settings: JSON values by name.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def digest(self) -> str:
        """Return a sha256 over the settings and over name, dtype, shape and bytes of each tensor.

        Raises:
            TypeError: a setting cannot be written as JSON.
            ValueError: a setting is NaN or infinite.
        """
        hashed = hashlib.sha256(json_digest(dict(self.settings)).encode())
        for name, tensor in sorted(self.tensors.items()):
            hashed.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            hashed.update(memoryview(flat))
        return hashed.hexdigest()
