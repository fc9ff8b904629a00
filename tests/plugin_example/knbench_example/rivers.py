"""A task from a definition file, which is in the same folder as this module."""

from collections.abc import Iterator
from pathlib import Path

from knbench.benchmark.core.schema import Task
from knbench.tasks import tasks_in_folder


def definitions() -> Iterator[Task]:
    """Yield the task of every ``*.yaml`` file in this folder."""
    return tasks_in_folder(Path(__file__).parent)
