"""Standardized tasks: a definition file each, with its data beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..benchmark.types import Task
from .definition import load_definition

FOLDER = Path(__file__).parent


def definitions() -> Iterator[Task]:
    """Yield the built-in tasks, by name."""
    for path in sorted(FOLDER.glob("*.yaml")):
        yield load_definition(path)
