"""The state of a model, apart from its weights, that an editor must restore."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..models.language_model import LanguageModel

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Attributes of a module that hold its hooks."""
MAX_NAMES = 3
"""Number of differences that a message names."""


class ModelState:
    """Snapshot of modes, hooks, buffers, gradients and settings of a model.

    Weights are not part of it; :meth:`~..models.language_model.LanguageModel.fingerprint` covers them. The cost of a
    snapshot grows with the number of modules and parameters, not with their size.

    Args:
        lm: the model.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._modules, self._parameters, self._settings = _modules(lm), _parameters(lm), _settings(lm)
        self._buffers = {name: (buffer, buffer.detach().clone()) for name, buffer in _buffers(lm)}

    def differences(self) -> list[str]:
        """Return the names of the parts of the model's state that differ now from the snapshot."""
        found = _differing(self._settings, _settings(self._lm))
        found += [f"{kind} of {name}" for name, kind in _pairs(self._modules, _modules(self._lm), _MODULE_PARTS)]
        found += [f"{kind} of {name}" for name, kind in _pairs(self._parameters, _parameters(self._lm), _WEIGHT_PARTS)]
        buffers = dict(_buffers(self._lm))
        for name in {**self._buffers, **buffers}:
            if name not in buffers or name not in self._buffers or not _equal(self._buffers[name][1], buffers[name]):
                found.append(f"buffer {name}")
        return found


_MODULE_PARTS = ("object", "training mode", "forward method", "hooks")
_WEIGHT_PARTS = ("object", "requires_grad", "grad")


def _modules(lm: LanguageModel) -> dict[str, tuple[Any, ...]]:
    model: nn.Module = lm.model
    states = {}
    for name, module in model.named_modules():
        attributes = vars(module)
        hooks = tuple(tuple(attributes.get(kind, ())) for kind in HOOKS)
        states[name or "the model"] = (id(module), module.training, id(attributes.get("forward")), hooks)
    return states


def _parameters(lm: LanguageModel) -> dict[str, tuple[Any, ...]]:
    model: nn.Module = lm.model
    return {name: (id(p), p.requires_grad, p.grad is not None) for name, p in model.named_parameters()}


def _buffers(lm: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers by name, except for those that a forward pass adapts to the length of its input."""
    model: nn.Module = lm.model
    for name, module in model.named_modules():
        if "dynamic" in (rope := str(getattr(module, "rope_type", ""))) or rope == "longrope":
            continue
        yield from module.named_buffers(name, recurse=False)


def _settings(lm: LanguageModel) -> dict[str, Any]:
    tokenizer, model = lm.tokenizer, lm.model
    generation = getattr(model, "generation_config", None)
    return {
        "the model object": id(model),
        "lm.prompt_prefix": lm.prompt_prefix,
        "lm.recall": id(lm.recall),
        "lm.memories": {name: [id(memory) for memory in stacked] for name, stacked in lm.memories.items()},
        "lm.memories_suspended": lm.memories_suspended,
        "the tokenizer's vocabulary": len(tokenizer),
        "the tokenizer's padding or truncation side": (tokenizer.padding_side, tokenizer.truncation_side),
        "model.config": _json(model.config.to_dict),
        "model.generation_config": None if generation is None else _json(generation.to_dict),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's global module hooks": (
            tuple(nn.modules.module._global_forward_hooks),
            tuple(nn.modules.module._global_forward_pre_hooks),
        ),
    }


def _json(to_dict: Callable[[], dict[str, Any]]) -> str:
    return json.dumps(to_dict(), sort_keys=True, default=str)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def _pairs(
    before: dict[str, tuple[Any, ...]], now: dict[str, tuple[Any, ...]], kinds: tuple[str, ...]
) -> list[tuple[str, str]]:
    """Return names and kinds of the parts that differ."""
    pairs = []
    for name in _differing(before, now):
        if name in before and name in now:
            pairs += [(name, k) for k, a, b in zip(kinds, before[name], now[name], strict=True) if a != b]
        else:
            pairs.append((name, kinds[0]))
    return pairs


def _equal(before: Tensor, now: Tensor) -> bool:
    """Return whether two buffers are equal bit for bit."""
    if (before.shape, before.dtype, before.device) != (now.shape, now.dtype, now.device):
        return False
    return torch.equal(_bytes(before), _bytes(now))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
