"""Standardized tasks: one definition file per task in ``definitions``, with its data in ``data``.

:func:`builtin_tasks`, :func:`german_tasks` and :func:`tasks_in_folder` are the functions that the entry-point groups
``knbench.tasks`` and ``knbench.task_folders`` refer to. The toy models are trained on the English tasks alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..benchmark.core.schema import Task
from .definition import load_definition

DEFINITIONS = Path(__file__).parent / "definitions"
GERMAN = DEFINITIONS / "german"


def tasks_in_folder(folder: Path) -> Iterator[Task]:
    """Yield the tasks that the ``*.yaml`` and ``*.yml`` files of a folder define, in the order of the file names.

    Sub-folders are not read.

    Raises:
        KnbenchError: a definition is invalid. Data files are read later, when the cases of a task are first used.
    """
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith(".")):
        yield load_definition(path)


def builtin_tasks() -> Iterator[Task]:
    """Yield the built-in tasks, in the order of their names."""
    return tasks_in_folder(DEFINITIONS)


def german_tasks() -> Iterator[Task]:
    """Yield the built-in tasks in German, in the order of their names."""
    return tasks_in_folder(GERMAN)
