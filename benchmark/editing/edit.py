"""Edits: a change to a model that has been computed, and the stack that applies and reverts such changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import KnbenchError
from ..core.schema import JsonObject
from ..models.hooks import edit_output, memories_active
from ..models.language_model import LanguageModel, Recalls
from ..models.memory import Memory, OutputFunctionError
from .recall import Recall
from .state import State


class NonFiniteEditError(KnbenchError):
    """A weight of an edit contains NaN or infinite values."""


@dataclass(frozen=True)
class EditSize:
    """What an edit adds to a model, in bytes. Tensors that share memory are counted once.

    Attributes:
        weights: size of the replaced parameters.
        memory: size of what is kept outside of the weights: the tensors of :attr:`Edit.memories`, :attr:`Edit.memory`,
            and the prefix in UTF-8.
        state: size of the tensors of :attr:`Edit.state` that are not part of the memory.
        entries: number of facts that are kept outside of the weights, those of earlier edits of a sequence included.
        recall: size of :attr:`Edit.recall`: its texts in UTF-8, and its tensors.
    """

    weights: int
    memory: int
    state: int
    entries: int
    recall: int = 0


@dataclass(frozen=True)
class Edit:
    """A change to a model that has been computed and not yet applied.

    Attributes:
        weights: new tensors by parameter name. Each replaces the whole parameter and has its shape and dtype.
        outputs: functions by module name. Each maps the module's output of shape (batch, position, d) to a tensor of
            the same shape. A function of the output head receives logits. It must treat each position alone, because
            some passes compute the logits at selected positions only and present them as one text.
        prefix: text that is prepended to every prompt (in-context editing).
        diagnostics: JSON values that are stored with the edit's record, for example the losses of an optimisation.
        state: data for the next sequential edit, see :meth:`Editor.edit_next`. It has no effect on the model.
        memory: tensors by name that the functions of ``outputs`` use, for :attr:`size`.
        entries: number of facts in ``outputs`` and ``prefix``. Memories and recalls count their own.
        memories: memories by module name. A memory replaces an active one of its class at the same module, and acts
            after those of other classes. The module must not be the output head.
        recall: text before each prompt that depends on the prompt. It replaces an active one.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    prefix: str = ""
    diagnostics: JsonObject = field(default_factory=dict)
    state: State | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    entries: int = 0
    memories: Mapping[str, Memory] = field(default_factory=dict)
    recall: Recall | None = None

    @property
    def size(self) -> EditSize:
        """The size of the edit's parts. For a sequence, the size of the last edit includes the earlier facts."""
        state = [] if self.state is None else [*self.state.tensors.values()]
        memory = [*self.memory.values(), *(t for m in self.memories.values() for t in m.tensors.values())]
        recall = self.recall
        return EditSize(
            weights=_bytes(self.weights.values()),
            memory=_bytes(memory) + len(self.prefix.encode()),
            state=_bytes([*memory, *state]) - _bytes(memory),
            # A fact may have a memory at several modules.
            entries=self.entries
            + max((m.entries for m in self.memories.values()), default=0)
            + (recall.entries if recall else 0),
            recall=(_bytes(recall.tensors.values()) + sum(len(t.encode()) for t in recall.texts)) if recall else 0,
        )

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """Apply the edit for the duration of a ``with`` block, and revert it on leaving, also after an exception.

        Yields:
            The edited model, which is ``lm`` itself.

        Raises:
            KnbenchError: the edit does not fit the model, see :meth:`EditStack.push`.
        """
        with EditStack(lm) as stack:
            stack.push(self)
            yield lm


class EditStack:
    """Applies edits on top of each other; leaving the ``with`` block reverts all of them.

    ``with EditStack(lm) as stack: stack.push(edit)``

    The model's own tensors are kept and put back, which restores the model bit for bit, also after an exception. The
    stack keeps the original tensors and those that the last push replaced. Its memory does not grow with the number
    of edits.

    Attributes:
        state: state of the last edit, for the next one; None before the first.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self._surroundings = _Surroundings.of(lm)
        self._originals: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._hooks: list[ExitStack] = []
        self._aside = ExitStack()
        self._before_last: tuple[list[tuple[nn.Parameter, Tensor]], _Surroundings, State | None] | None = None
        self.state: State | None = None

    def __enter__(self) -> EditStack:
        self._aside.enter_context(self.lm.setting_aside(self._originals))
        return self

    def __exit__(self, *exc: object) -> None:
        while self._hooks:
            self._hooks.pop().close()
        self._surroundings.restore(self.lm)
        for parameter, original in self._originals.values():
            parameter.data = original
        self._aside.close()

    def push(self, edit: Edit) -> None:
        """Apply one more edit. The model is unchanged if this raises.

        Raises:
            KnbenchError: the model lacks a named parameter or module, a tensor has another shape or dtype than its
                parameter, or a memory is at the output head.
            NonFiniteEditError: a tensor contains NaN or infinite values.
        """
        lm = self.lm
        replaced = [(lm.parameter(name), name, new) for name, new in edit.weights.items()]
        modules = [(_module(lm, name), _guarded(name, change)) for name, change in edit.outputs.items()]
        for parameter, name, new in replaced:
            if new.shape != parameter.shape or new.dtype != parameter.dtype:
                raise KnbenchError(
                    f"edit of '{name}' has shape {tuple(new.shape)} and type {new.dtype}; the parameter has shape "
                    f"{tuple(parameter.shape)} and type {parameter.dtype}"
                )
            if not bool(new.isfinite().all()):
                raise NonFiniteEditError(f"edit of '{name}' contains NaN or infinite values")
        for name, memory in edit.memories.items():
            if _module(lm, name) is lm.head:
                raise KnbenchError(f"memory {type(memory).__name__} is at the output head '{name}'; use another module")
        tensors = [(parameter, parameter.data) for parameter, _, _ in replaced]
        self._before_last = tensors, _Surroundings.of(lm), self.state
        for parameter, _, new in replaced:
            self._originals.setdefault(id(parameter), (parameter, parameter.data))
            parameter.data = new.to(parameter.device)
        self._hooks.append(ExitStack())
        for module, change in modules:
            self._hooks[-1].enter_context(edit_output(module, change))
        for name, memory in edit.memories.items():
            if not lm.memories.get(name):
                self._hooks[-1].enter_context(memories_active(lm, name))
            lm.memories = {**lm.memories, name: _replacing(lm.memories.get(name, ()), memory)}
        lm.prompt_prefix += edit.prefix
        lm.set_recall(edit.recall or lm.recall)
        self.state = edit.state

    def digests(self) -> list[Any]:
        """Return digests of the parts of the edited model besides its weights: state, memories and recall.

        The list is empty if there are none, and has the digest of the state alone if there is nothing else.
        """
        lm, state = self.lm, self.state
        own = [] if state is None else [state.digest()]
        memories = {name: [memory.digest() for memory in stacked] for name, stacked in sorted(lm.memories.items())}
        recall = lm.recall.digest() if isinstance(lm.recall, Recall) else None
        return [*own, memories, recall] if memories or recall else own

    def pop(self) -> None:
        """Revert the last edit. Only one edit can be reverted after each :meth:`push`.

        Raises:
            RuntimeError: no edit was pushed since the last :meth:`pop`.
        """
        if self._before_last is None:
            raise RuntimeError("EditStack.pop() reverts only the last push(); push an edit before the next pop()")
        self._hooks.pop().close()
        tensors, surroundings, self.state = self._before_last
        surroundings.restore(self.lm)
        self._before_last = None
        for parameter, tensor in tensors:
            parameter.data = tensor


@dataclass(frozen=True)
class _Surroundings:
    """The parts of a model besides its weights that edits change."""

    prefix: str
    recall: Recalls | None
    memories: dict[str, tuple[Memory, ...]]

    @classmethod
    def of(cls, lm: LanguageModel) -> _Surroundings:
        return cls(lm.prompt_prefix, lm.recall, lm.memories)

    def restore(self, lm: LanguageModel) -> None:
        lm.prompt_prefix, lm.memories = self.prefix, self.memories
        lm.set_recall(self.recall)


def _replacing(active: tuple[Memory, ...], memory: Memory) -> tuple[Memory, ...]:
    """Return the memories of a module with a new one in the place of the active one of its class, or at the end."""
    if any(type(other) is type(memory) for other in active):
        return tuple(memory if type(other) is type(memory) else other for other in active)
    return (*active, memory)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Return the number of bytes of some tensors, of which those that share memory count once."""
    found = {(t.data_ptr(), t.numel() * t.element_size()) for t in tensors}
    return sum(size for _, size in found)


def _guarded(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # Errors become OutputFunctionError, which the runner attributes to the edit and not to the measurement.
    def guarded(output: Tensor) -> Tensor:
        try:
            new: object = change(output)
        except torch.OutOfMemoryError:  # a smaller batch can succeed
            raise
        except Exception as error:
            raise OutputFunctionError(f"outputs['{name}'] raised {type(error).__name__}: {error}") from error
        if not isinstance(new, Tensor) or new.shape != output.shape:
            found = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
            raise OutputFunctionError(f"outputs['{name}'] returned {found}; the output has shape {tuple(output.shape)}")
        return new

    return guarded


def _module(lm: LanguageModel, name: str) -> nn.Module:
    try:
        module: nn.Module = lm.model.get_submodule(name)
    except AttributeError as error:
        raise KnbenchError(f"model '{lm.name}' has no module '{name}'") from error
    return module
