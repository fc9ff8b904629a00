"""Validation against the project's JSON Schemas."""

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
    """Return one of the project's JSON Schemas: ``result`` or ``record``."""
    text = files(__package__).joinpath(f"schemas/{name}.schema.json").read_text(encoding="utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def check(document: Any, name: str, where: str) -> None:
    """Validate a document.

    Raises:
        KnbenchError: it does not fit; the message names the place as a JSON pointer.
    """
    flaw = checker(name)(document)
    if flaw is not None:
        raise KnbenchError(f"{where}: no valid {name} {flaw}")


@cache
def checker(kind: str) -> Callable[[Any], str | None]:
    """Return what tells a document's flaw, or None for a good one.

    jsonschema-rs decides, a hundred times faster; jsonschema words the complaint.
    """
    quick = jsonschema_rs.Draft202012Validator(dict(schema(kind)))

    def flaw(document: Any) -> str | None:
        if quick.is_valid(document):
            return None
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(kind)).iter_errors(document))
        if error is None:
            return "by jsonschema-rs"
        message = error.message if len(error.message) < 200 else error.message[:200] + "..."
        return f"at /{'/'.join(str(part) for part in error.absolute_path)}: {message}"

    return flaw
