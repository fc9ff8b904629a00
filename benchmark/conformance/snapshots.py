"""Snapshots of models, of class and module variables, and of process-wide state.

The checks compare snapshots before and after a call to an editor. The context managers restore state that an editor
changed, which prevents one defect from failing several checks.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import sys
import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..editing import Editor
from ..models.language_model import LanguageModel


class Snapshot:
    """The state of a model that an editor must not change.

    Attributes:
        state: the value, hash or object id of each item, by a name that is shown to the author of the editor.
    """

    def __init__(self, lm: LanguageModel) -> None:
        model: nn.Module = lm.model
        self.state: dict[str, Any] = {
            "the model object": id(model),
            "lm.prompt_prefix": lm.prompt_prefix,
            "lm.recall": id(lm.recall),
            "lm.memories": {name: [memory.digest() for memory in stacked] for name, stacked in lm.memories.items()},
            "lm.memories_suspended": lm.memories_suspended,
            "the tokenizer's padding side": (lm.tokenizer.padding_side, lm.tokenizer.truncation_side),
            "the tokenizer's vocabulary": (len(lm.tokenizer), dict(lm.tokenizer.special_tokens_map)),
            "model.config": _sorted_json(lm.model.config.to_dict()),
            "torch's gradient mode": torch.is_grad_enabled(),
            "torch's default dtype": torch.get_default_dtype(),
        }
        if getattr(model, "generation_config", None) is not None:
            self.state["model.generation_config"] = _sorted_json(lm.model.generation_config.to_dict())
        self._references: list[Any] = [model]  # keeps the objects alive; a freed object's id can be reused
        for name, module in model.named_modules():
            label = name or "the model"
            hooks = {key: tuple(value) for key, value in vars(module).items() if key.endswith("_hooks")}
            self.state[f"type of {label}"] = type(module)
            self.state[f"training mode of {label}"] = module.training
            self.state[f"forward of {label}"] = id(vars(module).get("forward"))
            self.state[f"hooks of {label}"] = hooks
            self._references += [module, vars(module).get("forward")]
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.state[f"requires_grad of {name}"] = parameter.requires_grad
            self.state[f"grad of {name}"] = parameter.grad is not None
            self.state[f"identity of {name}"] = id(parameter)
            self._references.append(parameter)
        self.state.update({f"values of {name}": value for name, value in tensor_digests(lm).items()})

    def differences(self, later: Snapshot) -> list[str]:
        """Return the names of the items that differ in a later snapshot."""
        return [key for key in {**self.state, **later.state} if self.state.get(key) != later.state.get(key)]


def tensor_digests(lm: LanguageModel) -> dict[str, str]:
    """Return a hash of every parameter and buffer by name. Tied parameters occur under each of their names."""
    model: nn.Module = lm.model
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor_digest(tensor) for name, tensor in tensors}


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 hash of a tensor's dtype, shape and bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode() + flat.numpy().tobytes()).hexdigest()


def _sorted_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def join_names(names: Sequence[str], at_most: int = 3) -> str:
    """Join names with commas and replace those after ``at_most`` by their number.

    >>> join_names(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


class GlobalState:
    """A snapshot of the class attributes and module globals of an editor, which :meth:`restore` puts back.

    It covers every class between ``cls`` and :class:`Editor`, their modules, and the contents of dicts, lists and sets
    in their variables. State that an editor stores elsewhere is not covered.
    """

    _CONTAINERS = (dict, OrderedDict, defaultdict, WeakKeyDictionary, WeakValueDictionary, list, set)

    def __init__(self, cls: type[Editor[Any]]) -> None:
        owners: list[Any] = [c for c in cls.__mro__ if issubclass(c, Editor) and c is not Editor]
        modules = {c.__module__: sys.modules[c.__module__] for c in owners if c.__module__ in sys.modules}
        self._variables = [(owner, self._variables_of(owner)) for owner in [*owners, *modules.values()]]
        values = [value for _, variables in self._variables for value in variables.values()]
        self._contents = [(value, copy.copy(value)) for value in values if type(value) in self._CONTAINERS]

    @staticmethod
    def _variables_of(owner: Any) -> dict[str, Any]:
        return {k: v for k, v in vars(owner).items() if not k.startswith("__") and k != "_abc_impl"}

    def restore(self) -> None:
        """Restore the variables and the contents of their containers."""
        for owner, originals in self._variables:
            for name, value in self._variables_of(owner).items():
                if name in originals and value is not originals[name]:
                    setattr(owner, name, originals[name])
                elif name not in originals and not isinstance(value, ModuleType):
                    delattr(owner, name)
        for container, original in self._contents:
            if isinstance(container, list):
                container[:] = original
            else:
                container.clear()
                container.update(original)


@contextmanager
def preserved_weights(lm: LanguageModel) -> Iterator[None]:
    """Restore the model's weights on exit, for checks that do not test whether the editor restores them."""
    tensors = [*lm.model.parameters(), *lm.model.buffers()]
    originals = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, original in zip(tensors, originals, strict=True):
                tensor.copy_(original)


@contextmanager
def preserved_process_state() -> Iterator[None]:
    """Restore random generators, torch's dtype, gradient mode and number of threads on exit."""
    python_state, numpy_state, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_num_threads(1)  # the matrices are too small to profit from several threads
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


@contextmanager
def temporary_cache_folder() -> Iterator[None]:
    """Set ``KNBENCH_CACHE`` to an empty temporary folder, for editors that cache statistics on disk."""
    original = os.environ.get("KNBENCH_CACHE")
    with tempfile.TemporaryDirectory(prefix="knbench-check-") as folder:
        os.environ["KNBENCH_CACHE"] = folder
        try:
            yield
        finally:
            if original is None:
                del os.environ["KNBENCH_CACHE"]
            else:
                os.environ["KNBENCH_CACHE"] = original
