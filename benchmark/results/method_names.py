"""Names of methods in comparisons: an editor with one configuration over all its results is one method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from ..core.documents import Result
from ..core.files import json_text

MAX_VALUE_LENGTH = 32
"""Length above which a value is replaced by a digest of it."""


def differing_settings(results: Iterable[Result]) -> dict[str, list[Any]]:
    """Return the hyper-parameters in which results of one editor differ, with their distinct values.

    A hyper-parameter that a result lacks has the value None.
    """
    configs = [result.editor.config for result in results]
    found: dict[str, list[Any]] = {}
    for key in sorted({key for config in configs for key in config}):
        values = {json_text(config.get(key)): config.get(key) for config in configs}
        if len(values) > 1:
            found[key] = list(values.values())
    return found


def describe_differences(settings: dict[str, list[Any]]) -> str:
    """Return the result of :func:`differing_settings` as text.

    >>> describe_differences({"layer": [3, 5], "layers": [[4, 5], None]})
    'layer: 3 and 5; layers: 4|5 and none'
    """
    return "; ".join(f"{key}: {' and '.join(map(_short, values))}" for key, values in settings.items())


def method_names(results: Sequence[Result]) -> list[str]:
    """Return the name of the method of each result.

    It is the name of the editor if all results of the editor have the same configuration. Otherwise the values that
    differ are appended, as in ``rome (layer=3)``: each configuration is a method of its own.
    """
    by_editor: dict[str, list[Result]] = {}
    for result in results:
        by_editor.setdefault(result.editor.name, []).append(result)
    differing = {editor: list(differing_settings(members)) for editor, members in by_editor.items()}
    return [_name(result, differing[result.editor.name]) for result in results]


def _name(result: Result, keys: Sequence[str]) -> str:
    if not keys:
        return result.editor.name
    values = ", ".join(f"{key}={_short(result.editor.config.get(key))}" for key in keys)
    return f"{result.editor.name} ({values})"


def _short(value: Any) -> str:
    """Return a value as it is written on the command line, or a digest of it if it is long."""
    if isinstance(value, list | tuple):
        text = "|".join(map(str, value))
    elif isinstance(value, bool) or value is None:
        text = str(value).lower()
    else:
        text = str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else "#" + hashlib.sha256(text.encode()).hexdigest()[:8]
