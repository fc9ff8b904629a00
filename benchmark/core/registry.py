"""One registry for editors, tasks, model families and commands: entry points.

A plug-in package registers itself by declaring an entry point in one of the groups below; the built-ins
arrive the same way. Names are known without importing anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import KnbenchError, unknown_name

if TYPE_CHECKING:
    from .schema import Task

EDITORS = "knbench.editors"
TASKS = "knbench.tasks"
FAMILIES = "knbench.families"
COMMANDS = "knbench.commands"
TASK_FOLDERS = "knbench.task_folders"
READERS = "knbench.readers"


def registered(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name, sorted.

    Raises:
        KnbenchError: two installed packages claim the same name.
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
    """Import what an entry point names.

    Raises:
        KnbenchError: the plug-in cannot be imported.
    """
    try:
        return point.load()
    except Exception as error:
        raise KnbenchError(f"plug-in '{point.name}' ({point.value}) cannot be imported: {error}") from error


def tasks(include: Sequence[Path] = ()) -> dict[str, Task]:
    """Return every registered task by name, and those defined in the given folders.

    An entry point of ``knbench.tasks`` names a function that returns an iterable of tasks, one of
    ``knbench.task_folders`` a function that does so for a folder of definition files.

    Raises:
        KnbenchError: a folder does not exist or holds a broken definition, or two tasks have one name.
    """
    found: dict[str, Task] = {}
    sources = [load(point)() for point in registered(TASKS).values()]
    for folder in include:
        if not folder.is_dir():
            raise KnbenchError(f"--include-path '{folder}' is no folder")
        sources += [load(point)(folder) for point in registered(TASK_FOLDERS).values()]
    for task in itertools.chain.from_iterable(sources):
        if task.name in found:
            raise KnbenchError(f"two definitions of task '{task.name}'; rename one of them")
        found[task.name] = task
    return found


def task(name: str) -> Task:
    """Return the registered task.

    Raises:
        KnbenchError: no such task; the message names the nearest one.
    """
    known = tasks()
    if name not in known:
        raise unknown_name("task", name, known)
    return known[name]


def published_task(name: str, data: Mapping[str, str]) -> tuple[Task, list[str]]:
    """Return a task read from a published data set, named ``READER`` or ``READER:SELECTION``.

    Args:
        name: such as ``pararel:P36`` or ``counterfact``.
        data: where a reader's data lies: a hub id, a file or a folder; readers know a hub id of their own.

    Returns:
        The task, and lines that tell what could not be read.

    Raises:
        KnbenchError: no such reader, or it can read nothing there.
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
    """Turn ``capital,pararel:P36`` or ``all`` into tasks.

    Returns:
        The tasks, and notes on published data that could not be read.

    Raises:
        KnbenchError: a name is not known; the message names the nearest one.
    """
    known, notes, chosen = tasks(include), [], {}
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    readers = registered(READERS)
    for name in list(known) if names == ["all"] else names:
        if name in known:
            chosen[name] = known[name]
        elif name.partition(":")[0] in readers:
            chosen[name], more = published_task(name, data or {})
            notes += more
        else:
            raise unknown_name("task", name, [*known, *readers])
    if not chosen:
        raise KnbenchError(f"no task named; known: {', '.join(known)}")
    return list(chosen.values()), notes
