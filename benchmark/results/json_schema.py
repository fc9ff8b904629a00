"""Validation against the JSON Schemas in ``schemas``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema_rs

from ..core.errors import KnbenchError

_WORDED_SIZE = 100_000
"""Size of a document above which its flaws are not worded in detail."""


@cache
def schema(name: str) -> Mapping[str, Any]:
    """Return a JSON Schema by its name, such as ``result`` or ``record``."""
    text = files(__package__).joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def check(document: Any, name: str, where: str) -> None:
    """Validate a document.

    Args:
        document: plain JSON values.
        name: name of the schema.
        where: path of the document, for messages.

    Raises:
        KnbenchError: the document is invalid; names the place as a JSON pointer.
    """
    flaw = checker(name)(document)
    if flaw is not None:
        raise KnbenchError(f"{where}: not a valid {name} {flaw}")


@cache
def checker(name: str) -> Callable[[Any], str | None]:
    """Return a function that describes the first flaw of a document, or returns None for a valid one.

    jsonschema-rs validates, a hundred times faster than jsonschema, which words the messages. Messages repeat the value
    at every level of the schema. Of a large document only the top-level key is named.
    """
    validator = jsonschema_rs.Draft202012Validator(dict(schema(name)))

    def find_flaw(document: Any) -> str | None:
        if validator.is_valid(document):
            return None
        if _is_large(document):
            return _rough_flaw(document, schema(name))
        import jsonschema  # takes a quarter of the time of a light command

        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(name)).iter_errors(document))
        if error is None:
            return "by jsonschema-rs"
        message = error.message if len(error.message) < 200 else error.message[:200] + "..."
        return f"at /{'/'.join(str(part) for part in error.absolute_path)}: {message}"

    return find_flaw


def _is_large(document: Any) -> bool:
    """Return whether a document has more than :data:`_WORDED_SIZE` characters and values."""
    size, left = 0, [document]
    while left and size <= _WORDED_SIZE:
        value = left.pop()
        size += 1 + (len(value) if isinstance(value, str | list | dict) else 0)
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
    return size > _WORDED_SIZE


def _rough_flaw(document: Any, root: Mapping[str, Any]) -> str:
    """Return the top-level key of a large document whose value is invalid."""
    rules = root.get("properties", {})
    for key, value in document.items() if isinstance(document, dict) else ():
        rule = {"$defs": root.get("$defs", {}), **rules.get(key, {})}
        if key not in rules or not jsonschema_rs.Draft202012Validator(rule).is_valid(value):
            return f"at /{key[:100]}: the value is too large or does not follow the schema"
    return "at /: the document is too large or does not follow the schema"
