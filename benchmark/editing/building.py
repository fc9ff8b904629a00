"""Look-up of registered editors, and their construction with the hyper-parameters for a model."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from ..core import registry
from ..core.errors import KnbenchError, unknown_name
from ..models.language_model import LanguageModel
from .editor import Editor
from .guard import Guard, guarded
from .hyperparameters import convert


def editor_class(name: str) -> type[Editor[Any]]:
    """Return the registered editor class, or one that composes it with guards, for example ``memit+rect``.

    Raises:
        KnbenchError: no editor or guard has this name, its package cannot be imported, its class lacks an attribute,
            or guards do not apply to the editor.
    """
    name, *guards = name.split("+")
    if guards:
        return guarded(editor_class(name), tuple(guard_class(guard) for guard in guards))
    points = registry.registered(registry.EDITORS)
    if name not in points:
        raise unknown_name("editor", name, points)
    return _load_editor(points[name])


def guard_class(name: str) -> type[Guard[Any]]:
    """Return the registered guard class.

    Raises:
        KnbenchError: no guard has this name, its package cannot be imported, or its class lacks an attribute.
    """
    points = registry.registered(registry.GUARDS)
    if name not in points:
        raise unknown_name("guard", name, points)
    cls: Any = registry.load(points[name])
    if not isinstance(cls, type) or not issubclass(cls, Guard) or cls.__abstractmethods__:
        raise KnbenchError(f"{registry.label(points[name])} is not a subclass of Guard with a method 'update'")
    for attribute in ("name", "summary", "Config"):
        if not hasattr(cls, attribute):
            raise KnbenchError(f"{registry.label(points[name])} has no attribute '{attribute}'; set it in the class")
    if cls.name != name:
        raise KnbenchError(f"{registry.label(points[name])} has name '{cls.name}'; use the entry point's name")
    return cls


def editor_classes() -> dict[str, type[Editor[Any]]]:
    """Return all registered editor classes by name. One that cannot be used is left out, with a warning."""
    return registry.load_all(registry.EDITORS, _load_editor)


def _load_editor(point: EntryPoint) -> type[Editor[Any]]:
    cls: type[Editor[Any]] = registry.load(point)
    if problem := _declaration_error(cls, point.name):
        raise KnbenchError(f"{registry.label(point)} {problem}")
    return cls


def _declaration_error(cls: Any, name: str) -> str | None:
    """Return why an object cannot be used as an editor class under a name, or None."""
    if not isinstance(cls, type) or not issubclass(cls, Editor):
        return "is not a subclass of knbench.benchmark.Editor"
    for attribute in ("name", "summary", "Config"):
        if not hasattr(cls, attribute):
            return f"has no attribute '{attribute}'; set it in the class"
    for attribute in ("name", "summary", "paper"):
        if not isinstance(getattr(cls, attribute), str):
            return f"has {attribute} {getattr(cls, attribute)!r}; use a string"
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
            values[name] = convert(text, hints[name])
        except ValueError as error:
            raise KnbenchError(f"--editor-args {cls.name}.{name}={text}: {error}") from error
    return values
