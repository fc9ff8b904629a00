"""A task from a definition file, which is in the same folder as this module."""

from collections.abc import Iterator
from pathlib import Path

from knbench.benchmark.core.schema import Task
from knbench.tasks import definitions_in


def definitions() -> Iterator[Task]:
    """Yield the task of every ``*.yaml`` file in this folder."""
    return definitions_in(Path(__file__).parent)
