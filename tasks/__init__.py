"""Standardized tasks: one definition file each, in ``definitions``, with the data in ``data``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..benchmark.core.schema import Task
from .definition import load_definition

DEFINITIONS = Path(__file__).parent / "definitions"


def definitions_in(folder: Path) -> Iterator[Task]:
    """Yield the tasks that the ``*.yaml`` files of a folder define, by name."""
    for path in sorted(folder.glob("*.yaml")):
        yield load_definition(path)


def definitions() -> Iterator[Task]:
    """Yield the built-in tasks."""
    return definitions_in(DEFINITIONS)
