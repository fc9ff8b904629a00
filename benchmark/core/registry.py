"""Registry of editors, tasks, model families, data set readers and commands, based on entry points.

A plug-in package declares entry points in the groups below, and so does this package for its built-ins. Names are
available without an import of the plug-in.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import KnbenchError, first_line, unknown_name

if TYPE_CHECKING:
    from .schema import Task

EDITORS = "knbench.editors"
TASKS = "knbench.tasks"
FAMILIES = "knbench.families"
COMMANDS = "knbench.commands"
TASK_FOLDERS = "knbench.task_folders"
READERS = "knbench.readers"

T = TypeVar("T")
_warned: set[str] = set()


def registered(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name, in sorted order.

    Raises:
        KnbenchError: two installed packages register the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group)):
        if point.name in found and found[point.name].value != point.value:
            raise KnbenchError(
                f"two packages register '{point.name}' in {group}: {found[point.name].value} and "
                f"{point.value}; uninstall one or rename it"
            )
        found[point.name] = point
    return found


def load(point: EntryPoint) -> Any:
    """Import the object that an entry point refers to.

    Raises:
        KnbenchError: the plug-in cannot be imported.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {first_line(error)}"
        raise KnbenchError(f"plug-in '{point.name}' ({point.value}) cannot be imported: {reason}") from error


def warn(message: str) -> None:
    """Print a warning on stderr, once per process."""
    if message not in _warned:
        _warned.add(message)
        print(f"knbench: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def load_all(group: str, get: Callable[[EntryPoint], T] = load) -> dict[str, T]:
    """Return the objects of a group by name. A plug-in that cannot be used is left out, with a warning.

    Args:
        group: the group.
        get: returns the object of an entry point; raises KnbenchError if it cannot be used.
    """
    found = {}
    for name, point in registered(group).items():
        try:
            found[name] = get(point)
        except KnbenchError as error:
            warn(f"{error}; it is left out")
    return found


def _tasks_of(point: EntryPoint) -> list[Task]:
    """Return the tasks of an entry point of :data:`TASKS`.

    Raises:
        KnbenchError: it cannot be imported, raises an exception, or returns something else than tasks.
    """
    from .schema import Task

    function = load(point)
    try:
        found = list(function())
    except KnbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise KnbenchError(
            f"plug-in '{point.name}' ({point.value}) raised {type(error).__name__}: {first_line(error)}"
        ) from error
    if not all(isinstance(item, Task) for item in found):
        raise KnbenchError(f"plug-in '{point.name}' ({point.value}) returned objects that are not tasks")
    return found


def tasks(include: Sequence[Path] = ()) -> dict[str, Task]:
    """Return all registered tasks and those defined in the given folders, by name.

    An entry point of ``knbench.tasks`` refers to a function that returns an iterable of tasks. One of
    ``knbench.task_folders`` refers to a function that takes a folder of definition files and returns its tasks. A
    plug-in that cannot be used is left out, with a warning.

    Raises:
        KnbenchError: a folder does not exist or contains an invalid definition, or two tasks have the same name.
    """
    found: dict[str, Task] = {}
    sources: list[Iterable[Task]] = list(load_all(TASKS, _tasks_of).values())
    for folder in include:
        if not folder.is_dir():
            raise KnbenchError(f"--include-path '{folder}' is not a directory")
        readers: dict[str, Callable[[Path], Iterable[Task]]] = load_all(TASK_FOLDERS)
        sources += [read(folder) for read in readers.values()]
    for task in itertools.chain.from_iterable(sources):
        if task.name in found:
            raise KnbenchError(f"two definitions of task '{task.name}'; rename one of them")
        found[task.name] = task
    return found


def task(name: str) -> Task:
    """Return the registered task of a name.

    Raises:
        KnbenchError: the task is unknown. The message suggests the most similar name.
    """
    known = tasks()
    if name not in known:
        raise unknown_name("task", name, known)
    return known[name]


def published_task(name: str, data: Mapping[str, str]) -> tuple[Task, list[str]]:
    """Read a task from a published data set.

    Args:
        name: ``READER`` or ``READER:SELECTION``, for example ``counterfact`` or ``pararel:P36``.
        data: location of the data by reader: a hub id, a file or a folder. Each reader has a default hub id.

    Returns:
        The task, and one line for each kind of item that could not be read.

    Raises:
        KnbenchError: the reader is unknown, or the data contain nothing that it can read.
    """
    reader, _, selection = name.partition(":")
    points = registered(READERS)
    if reader not in points:
        raise unknown_name("reader of published data", reader, points)
    read, notes = load(points[reader])(reader, selection or None, data.get(reader))
    task: Task = read
    return task, notes


def resolve_tasks(
    text: str, include: Sequence[Path] = (), data: Mapping[str, str] | None = None
) -> tuple[list[Task], list[str]]:
    """Parse the value of ``--tasks``, for example ``capital,pararel:P36`` or ``all``.

    Args:
        text: comma-separated names. ``all`` selects every registered task and those of ``include``.
        include: folders of task definitions.
        data: see :func:`published_task`.

    Returns:
        The tasks, and notes on published data that could not be read.

    Raises:
        KnbenchError: a name is unknown, or no name is given.
    """
    known, notes, selected = tasks(include), [], {}
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    readers = registered(READERS)
    for name in list(known) if names == ["all"] else names:
        if name in known:
            selected[name] = known[name]
        elif name.partition(":")[0] in readers:
            selected[name], new_notes = published_task(name, data or {})
            notes += new_notes
        else:
            raise _unknown_task(name, include, [*known, *readers])
    if not selected:
        raise KnbenchError(f"--tasks: no task named; known: {', '.join(known)}")
    return list(selected.values()), notes


def _unknown_task(name: str, include: Sequence[Path], known: Sequence[str]) -> KnbenchError:
    """Return the error for an unknown task. It names the sub-folder that defines the task, because none is read."""
    for folder in include:
        for path in sorted(folder.rglob(f"{name}.y*ml")):
            if path.parent != folder and path.suffix in (".yaml", ".yml"):
                return KnbenchError(
                    f"unknown task '{name}': {path} is in a sub-folder, which is not read; add --include-path "
                    f"{path.parent}"
                )
    return unknown_name("task", name, known)
