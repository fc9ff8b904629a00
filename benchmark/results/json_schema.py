"""Validation against the JSON Schemas in ``schemas``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import jsonschema_rs

from ..core.errors import KnbenchError


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

    jsonschema-rs validates, a hundred times faster than jsonschema, which words the messages.
    """
    validator = jsonschema_rs.Draft202012Validator(dict(schema(name)))

    def find_flaw(document: Any) -> str | None:
        if validator.is_valid(document):
            return None
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(name)).iter_errors(document))
        if error is None:
            return "by jsonschema-rs"
        message = error.message if len(error.message) < 200 else error.message[:200] + "..."
        return f"at /{'/'.join(str(part) for part in error.absolute_path)}: {message}"

    return find_flaw
