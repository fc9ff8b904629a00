"""Removes the folders of local paths from values that are published in results."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOTED = re.compile(r"(?P<prefix>(datasets:|file:(//)?)?)(?P<path>(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)[^\n{}]*)")
_RELATIVE = re.compile(r"(?P<prefix>(datasets:)?)(?P<path>[^\n{}:#]+)")
_INSIDE = re.compile(r"(?<![\w./:~-])(?:[A-Za-z]:)?(?:[/\\][\w.~+@-]+)+[/\\](?=[\w.~+@-])")


def without_folders_in_text(text: str) -> str:
    """Return a text in which absolute paths have lost their folders.

    >>> without_folders_in_text("No such file: '/home/me/wiki.txt'"), without_folders_in_text("a/b, https://x.org/a/b")
    ("No such file: 'wiki.txt'", 'a/b, https://x.org/a/b')
    """
    return _INSIDE.sub("", text)


def without_folders(text: str) -> str:
    """Return a text that is a local path without its folders, and every other text unchanged.

    A relative path counts if the file or folder exists. The prefixes ``datasets:`` and ``file:`` and a configuration
    after ``#`` are kept. URLs and hub ids are not local paths.

    >>> without_folders("/home/me/wiki.txt"), without_folders("datasets:~/data/wiki#en"), without_folders("org/name")
    ('wiki.txt', 'datasets:wiki#en', 'org/name')
    """
    found = _ROOTED.fullmatch(text)
    if found is None:
        found = _RELATIVE.fullmatch(text)
        if found is None or not re.search(r"[/\\]", text) or not _exists(found["path"]):
            return text
    parts = [part for part in re.split(r"[/\\]", found["path"]) if part not in ("", "~", ".", "..")]
    return found["prefix"] + parts[-1] if parts else text


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def public_value(value: Any) -> Any:
    """Return a value as JSON reads it back, with lists for tuples, and local paths without their folders."""
    if isinstance(value, Mapping):
        return {str(k): public_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [public_value(v) for v in value]
    if isinstance(value, Path):
        return value.name
    return without_folders(value) if isinstance(value, str) else value
