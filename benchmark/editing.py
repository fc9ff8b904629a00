"""What an editing method is: it computes an :class:`Edit`; the runner applies it, measures and takes it back."""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from .core import registry
from .core.errors import KnbenchError, unknown_name
from .core.progress import Reporter
from .core.schema import EditRequest, JsonObject
from .models.hooks import edit_output
from .models.language_model import LanguageModel


@dataclass(frozen=True)
class Edit:
    """A change to a model, not yet made.

    Attributes:
        weights: whole new tensors by parameter name, of the parameter's shape and type.
        outputs: functions that change the output of a module, by module name.
        prefix: text that is put before every prompt (in-context editing).
        diagnostics: JSON values that explain how the edit came about.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    prefix: str = ""
    diagnostics: JsonObject = field(default_factory=dict)

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[LanguageModel]:
        """``with edit.applied(lm): ...`` makes the change; leaving, also by an exception, takes it back.

        Raises:
            KnbenchError: a tensor does not fit its parameter, or is not finite.
        """
        with EditStack(lm) as pile:
            pile.push(self)
            yield lm


class EditStack:
    """``with Pile(lm) as pile: pile.push(edit)`` makes edits one upon the other; leaving takes them all back.

    The model's own tensors are set aside untouched and put back as they were, so they return bit for bit, also after
    an exception. What lies between the first and the last edit is not kept: memory does not grow with their number.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self._prefix = lm.prompt_prefix
        self._originals: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._hooks: list[ExitStack] = []
        self._last: tuple[list[tuple[nn.Parameter, Tensor]], str] = ([], lm.prompt_prefix)

    def __enter__(self) -> EditStack:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._hooks:
            self._hooks.pop().close()
        self.lm.prompt_prefix = self._prefix
        for parameter, original in self._originals.values():
            parameter.data = original

    def push(self, edit: Edit) -> None:
        """Make one more edit.

        Raises:
            KnbenchError: a tensor does not fit its parameter, or is not finite; nothing was changed then.
        """
        lm = self.lm
        swaps = [(lm.parameter(name), name, new) for name, new in edit.weights.items()]
        modules = [(lm.model.get_submodule(name), change) for name, change in edit.outputs.items()]
        for parameter, name, new in swaps:
            if new.shape != parameter.shape or new.dtype != parameter.dtype:
                raise KnbenchError(
                    f"edit of '{name}' is {tuple(new.shape)} {new.dtype}; "
                    f"the parameter is {tuple(parameter.shape)} {parameter.dtype}"
                )
            if not bool(new.isfinite().all()):
                raise KnbenchError(f"edit of '{name}' holds values that are not finite")
        self._last = [(parameter, parameter.data) for parameter, _, _ in swaps], lm.prompt_prefix
        for parameter, _, new in swaps:
            self._originals.setdefault(id(parameter), (parameter, parameter.data))
            parameter.data = new.to(parameter.device)
        self._hooks.append(ExitStack())
        for module, change in modules:
            self._hooks[-1].enter_context(edit_output(module, change))
        lm.prompt_prefix += edit.prefix

    def pop(self) -> None:
        """Take the last edit back; only once after each :meth:`push`."""
        self._hooks.pop().close()
        tensors, self.lm.prompt_prefix = self._last
        for parameter, tensor in tensors:
            parameter.data = tensor


@dataclass(frozen=True)
class Published:
    """Hyper-parameters with their origin, for one model shape (see :attr:`LanguageModel.shape`).

    ``shape`` may leave out keys; what it names must match.
    """

    shape: JsonObject
    values: JsonObject
    source: str

    def fits(self, lm: LanguageModel) -> bool:
        """Whether these values were published or tuned for a model of this shape."""
        return all(lm.shape.get(key) == value for key, value in self.shape.items())


ConfigT = TypeVar("ConfigT")


class Editor(ABC, Generic[ConfigT]):
    """An editing method.

    A subclass sets the class attributes, and implements :meth:`edit`. It computes and leaves the model
    bit-identical; it draws random numbers from torch's global generator, which the runner seeds per case, or
    from ``self.seed``.

    Attributes:
        name: how the registry, the command line and the board call it.
        summary: one line for people.
        paper: citation of the method.
        Config: a frozen dataclass of its hyper-parameters, with defaults for all but ``layer``-like fields that
            :meth:`generic` fills in.
        published: hyper-parameters for particular model shapes.
        causal_only: whether it cannot edit masked models.
        together: how many independent requests :meth:`edit_each` computes best at once.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type]
    published: ClassVar[Sequence[Published]] = ()
    causal_only: ClassVar[bool] = False
    joint_batch_size: ClassVar[int] = 1

    def __init__(self, config: ConfigT, seed: int = 0) -> None:
        self.config = config
        self.seed = seed

    @classmethod
    def generic(cls, lm: LanguageModel) -> dict[str, Any]:
        """Return values for a model that nothing was published for, where the dataclass has no default."""
        del lm
        return {}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute what all edits of a model share, and return its provenance for the result."""
        del lm, reporter
        return {}

    @abstractmethod
    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute one edit that makes all ``requests`` true, leaving ``lm`` as it was.

        Raises:
            ValueError: a request that this method cannot edit; recorded as a failed case.
        """

    def edit_next(self, lm: LanguageModel, requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> Edit:
        """Compute an edit of a model that ``earlier`` requests have already been written into, one after the other.

        A method that protects earlier edits overrides this.

        Raises:
            ValueError: a request that this method cannot edit.
        """
        del earlier
        return self.edit(lm, requests)

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one edit per request, each as :meth:`edit` would alone.

        A method that can share work between independent requests overrides this and sets :attr:`joint_batch_size`.

        Raises:
            ValueError: some request cannot be edited; the caller then tries them one by one.
        """
        return [self.edit(lm, [request]) for request in requests]


@dataclass(frozen=True)
class NoConfig:
    """For methods without hyper-parameters."""


def build_editor(
    cls: type[Editor[Any]], lm: LanguageModel, overrides: Mapping[str, str] | None = None, seed: int = 0
) -> tuple[Editor[Any], str]:
    """Configure an editor for a model: generic values, then published ones, then the user's.

    Returns:
        The editor, and a phrase that says where its hyper-parameters come from.

    Raises:
        KnbenchError: an override names no field or has the wrong type, or the method cannot edit this model.
    """
    if cls.causal_only and not lm.causal:
        raise KnbenchError(f"editor '{cls.name}' needs a causal model; '{lm.name}' is a masked one")
    values, source = cls.generic(lm), "generic"
    for entry in cls.published:
        if entry.fits(lm):
            values, source = {**values, **entry.values}, entry.source
    if not dataclasses.fields(cls.Config):
        source = "no hyper-parameters"
    changed = parse_overrides(cls, overrides or {})
    if changed:
        source += "; user set " + ", ".join(sorted(changed))
    try:
        config = cls.Config(**{**values, **changed})
    except (TypeError, ValueError) as error:
        raise KnbenchError(f"editor '{cls.name}': {error}") from error
    return cls(config, seed), source


def parse_overrides(cls: type[Editor[Any]], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Turn ``{"layer": "7"}`` into values of the config's types.

    Raises:
        KnbenchError: no such field, or a value that does not fit it.
    """
    hints = typing.get_type_hints(cls.Config)
    fields = [f.name for f in dataclasses.fields(cls.Config)]
    values = {}
    for name, text in overrides.items():
        if name not in fields:
            raise unknown_name(f"hyper-parameter of editor '{cls.name}'", name, fields)
        try:
            values[name] = _coerce(text, hints[name])
        except ValueError as error:
            raise KnbenchError(f"--editor-args {cls.name}.{name}={text}: {error}") from error
    return values


def _coerce(text: str, hint: Any) -> Any:
    """Read a value of the annotated type from text.

    >>> _coerce("5e-4", float), _coerce("no", bool), _coerce("null", int | None)
    (0.0005, False, None)
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.casefold() in ("none", "null") else _coerce(text, options[0])
    if hint is bool:
        folded = text.casefold()
        if folded not in ("true", "yes", "1", "false", "no", "0"):
            raise ValueError("expected true or false")
        return folded in ("true", "yes", "1")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"expected {'a whole number' if hint is int else 'a number'}") from None
    if typing.get_origin(hint) is tuple:
        return tuple(_coerce(part.strip(), typing.get_args(hint)[0]) for part in text.split("|"))
    if typing.get_origin(hint) is typing.Literal:
        options = [str(option) for option in typing.get_args(hint)]
        if text not in options:
            raise ValueError(f"expected one of {', '.join(options)}")
        return text
    return text


def editor_class(name: str) -> type[Editor[Any]]:
    """Return the registered editor class.

    Raises:
        KnbenchError: no such editor; the message names the nearest one.
    """
    points = registry.registered(registry.EDITORS)
    if name not in points:
        raise unknown_name("editor", name, points)
    cls: type[Editor[Any]] = registry.load(points[name])
    return cls
