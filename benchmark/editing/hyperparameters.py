"""Hyper-parameters of editors: declaration, published values, and conversion from text."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..core.schema import JsonObject
from ..models.language_model import LanguageModel

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


def convert(text: str, hint: Any) -> Any:
    """Convert text to a type.

    >>> convert("5e-4", float), convert("no", bool), convert("null", int | None)
    (0.0005, False, None)
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.casefold() in ("none", "null") else convert(text, options[0])
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
        return tuple(convert(part.strip(), typing.get_args(hint)[0]) for part in text.split("|"))
    if typing.get_origin(hint) is typing.Literal:
        options = [str(option) for option in typing.get_args(hint)]
        if text not in options:
            raise ValueError(f"expected one of {', '.join(options)}")
        return text
    return text
