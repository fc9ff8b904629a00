"""One registry for editors, tasks, model families and commands: entry points.

A plug-in package registers itself by declaring an entry point in one of the groups below; the built-ins
arrive the same way. Names are known without importing anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from .errors import KnbenchError, unknown_name

if TYPE_CHECKING:
    from .editing import Editor
    from .types import Task

EDITORS = "knbench.editors"
TASKS = "knbench.tasks"
FAMILIES = "knbench.families"
COMMANDS = "knbench.commands"


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


def editor_class(name: str) -> type[Editor[Any]]:
    """Return the registered editor class.

    Raises:
        KnbenchError: no such editor; the message names the nearest one.
    """
    points = registered(EDITORS)
    if name not in points:
        raise unknown_name("editor", name, points)
    cls: type[Editor[Any]] = load(points[name])
    return cls


def tasks() -> dict[str, Task]:
    """Return every registered task by name.

    An entry point of ``knbench.tasks`` names a function that returns an iterable of tasks.
    """
    found: dict[str, Task] = {}
    for point in registered(TASKS).values():
        for task in load(point)():
            if task.name in found:
                raise KnbenchError(f"two definitions of task '{task.name}'; rename the one from '{point.name}'")
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
