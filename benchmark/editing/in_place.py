"""Methods that change a model in place, as those of EasyEdit, rome and memit, run as editors."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from ..core.schema import EditRequest, derived_seed
from ..models.language_model import LanguageModel
from .edit import Edit
from .editor import Editor

ConfigT = TypeVar("ConfigT")


class InPlaceEditor(Editor[ConfigT]):
    """Base class that runs a method which changes the model in place, and returns the difference as an edit.

    The method works on copies of the parameters that :meth:`touches` names. The copies become the edit, and the model
    gets its own tensors back. Memory therefore grows by the size of the named parameters. Hooks, modes, gradients,
    buffers, the settings of model and tokenizer, and the generators of Python and NumPy are restored as well.
    """

    @abstractmethod
    def apply(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Any:
        """Change ``lm.model`` in place.

        :func:`easyedit_request` and :func:`rome_request` convert a request to the form of other software. The return
        value may be the changed model, alone or as the first item of a tuple; other values are ignored.
        """

    def touches(self, lm: LanguageModel) -> Sequence[str] | None:
        """Return the names of the parameters that the method may change, or None for all, which copies the model."""
        del lm
        return None

    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Run the method and return what it changed.

        Raises:
            ValueError: a subject or target has no tokens.
            KnbenchError: the method returned another model, replaced a module, or changed a parameter that
                :meth:`touches` does not name. The last error leaves the model changed.
        """
        for request in requests:
            lm.token_queries(request.text, request.target_new, ".")
            if request.subject:
                lm.subject_span(lm.preface(request.text) + request.prompt, request.subject)
        parameters: dict[str, nn.Parameter] = dict(lm.model.named_parameters())
        touched = self.touches(lm)
        names = list(parameters) if touched is None else [lm.name_of(lm.parameter(name)) for name in touched]
        others = {name: _digest(p) for name, p in parameters.items() if name not in names}
        with _restored(lm), _copied({name: parameters[name] for name in names}) as originals:
            result: Any = self.apply(lm, requests)
            result = result[0] if isinstance(result, tuple) and result else result
            if isinstance(result, nn.Module) and result is not lm.model:
                raise KnbenchError(
                    f"editor '{self.name}': apply() returned another model; let the method change the given one "
                    "(often: copy=False)"
                )
            now = dict(lm.model.named_parameters())
            if now.keys() != parameters.keys():
                raise KnbenchError(
                    f"editor '{self.name}': the method replaced modules of the model "
                    f"({', '.join(sorted(now.keys() ^ parameters.keys())[:3])}); an Edit changes values of parameters"
                )
            new = {name: now[name].detach() for name in names}
            changed = [name for name, digest in others.items() if _digest(now[name]) != digest]
        if changed:
            raise KnbenchError(
                f"editor '{self.name}': the method changed {', '.join(changed[:3])}, which touches() does not name"
            )
        return Edit(weights={name: tensor for name, tensor in new.items() if not _equal(tensor, originals[name])})


def easyedit_request(request: EditRequest) -> dict[str, Any]:
    """Return a request in the form of EasyEdit: targets are strings."""
    return {
        "case_id": _case_id(request),
        "prompt": request.prompt,
        "subject": request.subject,
        "target_new": request.target_new,
        "ground_truth": request.target_true,
    }


def rome_request(request: EditRequest) -> dict[str, Any]:
    """Return a request in the form of rome and memit: targets are mappings with the key ``str``."""
    return {
        "case_id": _case_id(request),
        "prompt": request.prompt,
        "subject": request.subject,
        "target_new": {"str": request.target_new},
        "target_true": {"str": request.target_true},
    }


def _case_id(request: EditRequest) -> int:
    """Return a number that depends on the request alone: some software caches values by it."""
    return derived_seed(request.text, request.target_new, request.target_true) % 2**31


@contextmanager
def _copied(parameters: Mapping[str, nn.Parameter]) -> Iterator[Mapping[str, Tensor]]:
    """Give parameters copies of their tensors, and yield the tensors by name. They are put back at the end."""
    originals = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.data = parameter.data.clone()
        yield originals
    finally:
        for name, parameter in parameters.items():
            parameter.data = originals[name]


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
_BACKWARD_HOOKS = ("_backward_pre_hooks", "_backward_hooks")
_TOKENIZER = ("padding_side", "truncation_side", "pad_token")


@contextmanager
def _restored(lm: LanguageModel) -> Iterator[None]:
    """Enable gradients, seed Python and NumPy from torch, and restore everything but tensors of parameters."""
    model: nn.Module = lm.model
    modules = list(model.modules())
    states = [(dict(vars(module)), *_module_state(module)) for module in modules]
    gradients = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    settings = [(s, dict(vars(s))) for s in (model.config, getattr(model, "generation_config", None)) if s is not None]
    tokenizer = {name: getattr(lm.tokenizer, name, None) for name in _TOKENIZER}
    python_state, numpy_state, prefix = random.getstate(), np.random.get_state(), lm.prompt_prefix
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.enable_grad():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for name, value in tokenizer.items():
            if getattr(lm.tokenizer, name, None) != value:
                setattr(lm.tokenizer, name, value)
        for module, (attributes, hooks, parts) in zip(modules, states, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
            for registry, content in (*hooks, *parts):
                registry.clear()
                registry.update(content)
        for setting, values in settings:
            vars(setting).clear()
            vars(setting).update(values)
        with torch.no_grad():
            for buffer, copy in buffers:
                buffer.copy_(copy)
        for parameter, requires_grad, gradient in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        lm.prompt_prefix = prefix


def _module_state(module: nn.Module) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Return the mutable mappings of a module with copies of their content: hooks, and parameters and submodules."""
    attributes = vars(module)
    hooks = [(attributes[name], dict(attributes[name])) for name in (*_HOOKS, *_BACKWARD_HOOKS) if name in attributes]
    names = ("_parameters", "_buffers", "_modules")
    return hooks, [(attributes[name], dict(attributes[name])) for name in names]


def _digest(parameter: Tensor) -> str:
    import xxhash

    flat: Any = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(xxhash.xxh3_128(memoryview(flat)).hexdigest())


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
