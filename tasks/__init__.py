"""Standardized tasks: a definition file each, with its data beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..benchmark.types import Task
from .definition import load_definition

FOLDER = Path(__file__).parent


def definitions_in(folder: Path) -> Iterator[Task]:
    """Yield the tasks that the ``*.yaml`` files of a folder define, by name."""
    for path in sorted(folder.glob("*.yaml")):
        yield load_definition(path)


def definitions() -> Iterator[Task]:
    """Yield the built-in tasks."""
    return definitions_in(FOLDER)
