"""The interface of an editing method: an :class:`Editor` computes an :class:`Edit`, the runner applies and reverts it.

A method is one subclass of :class:`Editor` with one frozen dataclass of hyper-parameters::

    @dataclass(frozen=True)
    class ScaleConfig:
        layer: int = hyperparameter(help="Layer whose MLP output projection is scaled.")
        factor: float = hyperparameter(0.5, help="Factor of the weights.")

    class Scale(Editor[ScaleConfig]):
        name = "scale"
        summary = "Scales one MLP output projection"
        Config = ScaleConfig

        @classmethod
        def generic(cls, lm):
            return {"layer": lm.n_layers // 2}

        def edit(self, lm, requests):
            name = lm.mlp_weight_name(self.config.layer)
            return Edit(weights={name: lm.parameter(name).detach() * self.config.factor})

An entry point in the group ``knbench.editors`` registers it. ``knbench check-editor scale`` tests the contract.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from .core import registry
from .core.errors import KnbenchError, unknown_name
from .core.progress import Reporter
from .core.schema import EditRequest, JsonObject
from .models.hooks import edit_output
from .models.language_model import LanguageModel

# --- edits ---------------------------------------------------------------------------------------------------------


class NonFiniteEditError(KnbenchError):
    """A weight of an edit contains NaN or infinite values."""


class OutputFunctionError(Exception):
    """A function of :attr:`Edit.outputs` raised the exception that is the cause, or returned another shape."""


@dataclass(frozen=True)
class Edit:
    """A change to a model that has been computed and not yet applied.

    Attributes:
        weights: new tensors by parameter name. Each replaces the whole parameter and has its shape and dtype.
        outputs: functions by module name. Each maps the module's output of shape (batch, position, d) to a tensor of
            the same shape.
        prefix: text that is prepended to every prompt (in-context editing).
        diagnostics: JSON values that are stored with the edit's record, for example the losses of an optimisation.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    prefix: str = ""
    diagnostics: JsonObject = field(default_factory=dict)

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
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self._prefix = lm.prompt_prefix
        self._originals: dict[int, tuple[nn.Parameter, Tensor]] = {}
        self._hooks: list[ExitStack] = []
        self._before_last: tuple[list[tuple[nn.Parameter, Tensor]], str] | None = None

    def __enter__(self) -> EditStack:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._hooks:
            self._hooks.pop().close()
        self.lm.prompt_prefix = self._prefix
        for parameter, original in self._originals.values():
            parameter.data = original

    def push(self, edit: Edit) -> None:
        """Apply one more edit. The model is unchanged if this raises.

        Raises:
            KnbenchError: the model lacks a named parameter or module, or a tensor has another shape or dtype than its
                parameter.
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
        self._before_last = [(parameter, parameter.data) for parameter, _, _ in replaced], lm.prompt_prefix
        for parameter, _, new in replaced:
            self._originals.setdefault(id(parameter), (parameter, parameter.data))
            parameter.data = new.to(parameter.device)
        self._hooks.append(ExitStack())
        for module, change in modules:
            self._hooks[-1].enter_context(edit_output(module, change))
        lm.prompt_prefix += edit.prefix

    def pop(self) -> None:
        """Revert the last edit. Only one edit can be reverted after each :meth:`push`.

        Raises:
            RuntimeError: no edit was pushed since the last :meth:`pop`.
        """
        if self._before_last is None:
            raise RuntimeError("EditStack.pop() reverts only the last push(); push an edit before the next pop()")
        self._hooks.pop().close()
        tensors, self.lm.prompt_prefix = self._before_last
        self._before_last = None
        for parameter, tensor in tensors:
            parameter.data = tensor


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


# --- hyper-parameters ----------------------------------------------------------------------------------------------

T = TypeVar("T")


@typing.overload
def hyperparameter(default: T, *, help: str) -> T: ...


@typing.overload
def hyperparameter(*, help: str) -> Any: ...


def hyperparameter(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """Declare a field of an editor's config with a help text, which ``knbench describe`` prints.

    Args:
        default: default value, which must be immutable. Without one, :meth:`Editor.generic` or an entry of
            :attr:`Editor.published` must supply the value.
        help: meaning of the hyper-parameter, with its symbol in the paper.
    """
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class NoConfig:
    """Config of a method without hyper-parameters."""


@dataclass(frozen=True)
class Published:
    """Hyper-parameters of a method for one model, with their source.

    Attributes:
        shape: the part of :attr:`LanguageModel.shape` that a model must match, for example ``{"layers": 32}``.
        values: hyper-parameters by name.
        source: paper, software or project that the values come from.
        model: name of the model, for display.
    """

    shape: JsonObject
    values: JsonObject
    source: str
    model: str = ""

    def fits(self, lm: LanguageModel) -> bool:
        """Whether the model has the shape that these values were published or tuned for."""
        return all(lm.shape.get(key) == value for key, value in self.shape.items())


# --- editors -------------------------------------------------------------------------------------------------------

ConfigT = TypeVar("ConfigT")


class Editor(ABC, Generic[ConfigT]):
    """Base class of editing methods.

    A subclass sets the class attributes and implements :meth:`edit`. An editor must leave the model bit-identical. It
    draws random numbers from torch's global generator, which the runner seeds for each case, or derives them from
    ``self.seed``.

    Args:
        config: hyper-parameters, an instance of :attr:`Config`.
        seed: seed of the run.

    Attributes:
        name: name on the command line, in results and on the leaderboard. It equals the name of the entry point.
        summary: one-line description.
        paper: citation, or an empty string.
        Config: frozen dataclass of the hyper-parameters, see :func:`hyperparameter`.
        published: hyper-parameters for particular models.
        causal_only: whether the method cannot edit masked language models.
        joint_batch_size: number of independent requests that :meth:`edit_each` processes best in one call.
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
        """Return values for hyper-parameters that have no default, for a model without published values."""
        del lm
        return {}

    def prepare(self, lm: LanguageModel, reporter: Reporter) -> JsonObject:
        """Compute the data that all edits of a model share. The runner calls this once per model, before any edit.

        Returns:
            JSON values that describe the data. They are stored in the manifest of the run.
        """
        del lm, reporter
        return {}

    @abstractmethod
    def edit(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> Edit:
        """Compute one edit that fulfils all requests.

        Args:
            lm: the model, which must be left unchanged.
            requests: one or more requests.

        Raises:
            ValueError: the method cannot edit one of the requests. The runner records the cases as failed.
        """

    def edit_next(self, lm: LanguageModel, requests: Sequence[EditRequest], earlier: Sequence[EditRequest]) -> Edit:
        """Compute an edit of a model to which the edits of ``earlier`` requests are already applied.

        The default ignores ``earlier``. Override it in a method that protects earlier edits.

        Args:
            lm: the edited model, which must be left unchanged.
            requests: requests of the new edit.
            earlier: requests of all previous edits, in order.

        Raises:
            ValueError: the method cannot edit one of the requests.
        """
        del earlier
        return self.edit(lm, requests)

    def edit_each(self, lm: LanguageModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """Compute one independent edit per request, equal to :meth:`edit` of that request alone.

        Override it, and set :attr:`joint_batch_size`, in a method that can share work between requests.

        Raises:
            ValueError: the method cannot edit one of the requests. The runner then edits them one by one.
        """
        return [self.edit(lm, [request]) for request in requests]


def editor_class(name: str) -> type[Editor[Any]]:
    """Return the registered editor class.

    Raises:
        KnbenchError: no editor has this name, its package cannot be imported, or its class lacks an attribute.
    """
    points = registry.registered(registry.EDITORS)
    if name not in points:
        raise unknown_name("editor", name, points)
    return _load_editor(points[name])


def editor_classes() -> dict[str, type[Editor[Any]]]:
    """Return all registered editor classes by name. One that cannot be used is left out, with a warning."""
    return registry.load_all(registry.EDITORS, _load_editor)


def _load_editor(point: EntryPoint) -> type[Editor[Any]]:
    cls: type[Editor[Any]] = registry.load(point)
    if problem := _declaration_error(cls, point.name):
        raise KnbenchError(f"editor '{point.name}' ({point.value}) {problem}")
    return cls


def _declaration_error(cls: Any, name: str) -> str | None:
    """Return why an object cannot be used as an editor class under a name, or None."""
    if not isinstance(cls, type) or not issubclass(cls, Editor):
        return "is not a subclass of knbench.benchmark.Editor"
    for attribute in ("name", "summary", "Config"):
        if not hasattr(cls, attribute):
            return f"has no attribute '{attribute}'; set it in the class"
    if cls.name != name or not dataclasses.is_dataclass(cls.Config):
        return f"has name '{cls.name}' and Config {cls.Config!r}; use the entry point's name and a dataclass"
    return "has no method 'edit'; define it in the class" if cls.__abstractmethods__ else None


def build_editor(
    cls: type[Editor[Any]], lm: LanguageModel, overrides: Mapping[str, str] | None = None, seed: int = 0
) -> tuple[Editor[Any], str]:
    """Create an editor with the hyper-parameters for a model.

    Later sources override earlier ones: defaults of the config, :meth:`Editor.generic`, matching entries of
    :attr:`Editor.published`, ``overrides``.

    Args:
        cls: the editor class.
        lm: the model to be edited.
        overrides: hyper-parameters of the user as text, see :func:`parse_overrides`.
        seed: seed of the run.

    Returns:
        The editor, and the source of its hyper-parameters, for example ``"EasyEdit; user set layer"``.

    Raises:
        KnbenchError: the method cannot edit masked models and ``lm`` is one, or an override names no hyper-parameter,
            or a value has the wrong type or is out of range.
    """
    if cls.causal_only and not lm.causal:
        raise KnbenchError(f"editor '{cls.name}' needs a causal model; '{lm.name}' is a masked model")
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
    """Convert hyper-parameters from text, for example ``{"layer": "7"}``, to the types of the config's fields.

    Numbers are written as in Python, booleans as ``true`` or ``false``, None as ``none``, tuples as ``4|5|6``.

    Raises:
        KnbenchError: the config has no such field, or a text cannot be converted to the type of its field.
    """
    hints = typing.get_type_hints(cls.Config)
    fields = [f.name for f in dataclasses.fields(cls.Config)]
    values = {}
    for name, text in overrides.items():
        if name not in fields:
            raise unknown_name(f"hyper-parameter of editor '{cls.name}'", name, fields)
        try:
            values[name] = _convert(text, hints[name])
        except ValueError as error:
            raise KnbenchError(f"--editor-args {cls.name}.{name}={text}: {error}") from error
    return values


def _convert(text: str, hint: Any) -> Any:
    """Convert text to a type.

    >>> _convert("5e-4", float), _convert("no", bool), _convert("null", int | None)
    (0.0005, False, None)
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.casefold() in ("none", "null") else _convert(text, options[0])
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
        return tuple(_convert(part.strip(), typing.get_args(hint)[0]) for part in text.split("|"))
    if typing.get_origin(hint) is typing.Literal:
        options = [str(option) for option in typing.get_args(hint)]
        if text not in options:
            raise ValueError(f"expected one of {', '.join(options)}")
        return text
    return text
