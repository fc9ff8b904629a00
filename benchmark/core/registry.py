"""Registry of editors, tasks, model families, data set readers and commands, based on entry points.

A plug-in package declares entry points in the groups below, and so does this package for its built-ins. Names are
available without an import of the plug-in.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import KnbenchError, first_line, unknown_name

if TYPE_CHECKING:
    from .schema import Task

EDITORS = "knbench.editors"
GUARDS = "knbench.guards"
TASKS = "knbench.tasks"
FAMILIES = "knbench.families"
COMMANDS = "knbench.commands"
TASK_FOLDERS = "knbench.task_folders"
READERS = "knbench.readers"
BOARDS = "knbench.boards"

PACKAGE = "knbench"
"""Name of this distribution, whose entry points are built in."""

T = TypeVar("T")
_warned: set[str] = set()


def registered(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name, in sorted order.

    A built-in entry point takes precedence over one of the same name in another package. If two other packages register
    a name, neither is used. Both cases are reported by a warning.
    """
    points: dict[str, EntryPoint] = {}  # by value: an entry point that is found twice counts once
    for point in sorted(entry_points(group=group)):
        points.setdefault(f"{point.name}={point.value}", point)
    return unique(group, [(point, {point.name: point}) for point in points.values()])


def unique(kind: str, provided: Iterable[tuple[EntryPoint, Mapping[str, T]]]) -> dict[str, T]:
    """Merge what several entry points provide, by name.

    A name of a built-in entry point takes precedence. If two packages provide a name, neither is used. Both cases are
    reported by a warning.

    Args:
        kind: what the names denote, for the warning.
        provided: entry points, each with the objects that it provides by name.
    """
    found: dict[str, list[tuple[EntryPoint, T]]] = {}
    for point, objects in provided:
        for name, item in objects.items():
            found.setdefault(name, []).append((point, item))
    merged = {}
    for name, candidates in found.items():
        others = [point for point, _ in candidates if not is_built_in(point)]
        kept = [item for point, item in candidates if is_built_in(point)] or [item for _, item in candidates]
        if len(kept) == 1:
            merged[name] = kept[0]
            for point in others if len(candidates) > 1 else ():
                warn(f"{label(point)} registers '{name}' in {kind}, which is built in; it is left out")
        else:
            where = " and ".join(label(point) for point in others)
            warn(f"{where} register the same name '{name}' in {kind}; they are left out; uninstall one or rename it")
    return merged


def is_built_in(point: EntryPoint) -> bool:
    """Return whether an entry point belongs to this package."""
    if point.dist is None:
        return point.value.startswith(f"{PACKAGE}.")
    return _name_of(point.dist) == PACKAGE


@cache
def _name_of(package: Distribution) -> str:
    """Return the name of a package. The metadata, which contain its README, are parsed at every access to them."""
    return str(package.name)


def label(point: EntryPoint) -> str:
    """Return the name of an entry point for messages, with its object and its package."""
    package = "" if point.dist is None else f" of package {point.dist.name}"
    return f"plug-in '{point.name}' ({point.value}){package}"


def load(point: EntryPoint) -> Any:
    """Import the object that an entry point refers to.

    Raises:
        KnbenchError: the plug-in cannot be imported.
    """
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {first_line(error)}"
        raise KnbenchError(f"{label(point)} cannot be imported: {reason}") from error


def warn(message: str) -> None:
    """Print a warning on stderr, once per process. Worker processes print none: the main process has printed it."""
    if message not in _warned and multiprocessing.parent_process() is None:
        _warned.add(message)
        print(f"knbench: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)


def load_all(group: str, get: Callable[[EntryPoint], T] = load) -> dict[str, T]:
    """Return the objects of a group by name. A plug-in that cannot be used is left out, with a warning.

    Args:
        group: the group.
        get: returns the object of an entry point; raises KnbenchError if it cannot be used.
    """
    return {point.name: item for point, item in _usable(group, get)}


def _usable(group: str, get: Callable[[EntryPoint], T]) -> Iterator[tuple[EntryPoint, T]]:
    for point in registered(group).values():
        try:
            yield point, get(point)
        except KnbenchError as error:
            warn(f"{error}; it is left out")


def load_mappings(group: str, value_type: type[T]) -> dict[str, T]:
    """Return the merged mappings that the entry points of a group refer to; see :func:`unique`.

    Args:
        group: the group.
        value_type: type of the values. A plug-in with others is left out, with a warning.
    """

    def get(point: EntryPoint) -> Mapping[str, T]:
        found = load(point)
        if not isinstance(found, Mapping) or not all(isinstance(value, value_type) for value in found.values()):
            raise KnbenchError(f"{label(point)} is not a mapping from names to {value_type.__name__}")
        return found

    return unique(group, _usable(group, get))


def _call(point: EntryPoint, function: Any, *arguments: Any) -> Any:
    """Call a function of a plug-in.

    Raises:
        KnbenchError: it is not a function, or it raises an exception.
        OSError: a file cannot be read.
    """
    if not callable(function):
        raise KnbenchError(f"{label(point)} is not a function")
    try:
        return function(*arguments)
    except (KnbenchError, OSError):
        raise
    except (Exception, SystemExit) as error:
        raise KnbenchError(f"{label(point)} raised {type(error).__name__}: {first_line(error)}") from error


def _checked_tasks(point: EntryPoint, found: Any) -> list[Task]:
    """Return the tasks that a plug-in returned.

    Raises:
        KnbenchError: the value does not consist of tasks.
    """
    from .schema import Task

    items: list[Any] = _call(point, lambda: list(found))  # a generator runs here
    if not all(isinstance(item, Task) for item in items):
        raise KnbenchError(f"{label(point)} returned objects that are not tasks")
    return items


def _add(table: dict[str, Task], items: Iterable[Task]) -> dict[str, Task]:
    """Add tasks to a table by name, and return it.

    Raises:
        KnbenchError: the table has a task of the same name.
    """
    for item in items:
        if item.name in table:
            raise KnbenchError(f"two definitions of task '{item.name}'; rename one of them")
        table[item.name] = item
    return table


def _tasks_of(point: EntryPoint) -> dict[str, Task]:
    """Return the tasks of an entry point of :data:`TASKS` by name.

    Raises:
        KnbenchError: it cannot be imported, raises an exception, or returns something else than tasks.
    """
    function = load(point)
    try:
        return _add({}, _checked_tasks(point, _call(point, function)))
    except (KnbenchError, OSError) as error:
        text = str(error)
        raise KnbenchError(text if text.startswith(label(point)) else f"{label(point)}: {text}") from error


def _tasks_in(folder: Path) -> Iterator[Task]:
    """Yield the tasks that a folder defines.

    Raises:
        KnbenchError: it contains an invalid definition.
    """
    for point, read in _usable(TASK_FOLDERS, load):
        try:
            yield from _checked_tasks(point, _call(point, read, folder))
        except KnbenchError as error:
            if is_built_in(point):
                raise
            warn(f"{error}; it is left out")


def board_folders() -> list[Path]:
    """Return the folders with definitions of boards, that of this package first.

    An entry point of ``knbench.boards`` refers to a function without arguments that returns a folder. A plug-in that
    cannot be used is left out, with a warning.
    """

    def folder_of(point: EntryPoint) -> Path:
        folder = _call(point, load(point))
        if not isinstance(folder, Path) or not folder.is_dir():
            raise KnbenchError(f"{label(point)} returned no folder")
        return folder

    found = list(_usable(BOARDS, folder_of))
    return [folder for _, folder in sorted(found, key=lambda pair: not is_built_in(pair[0]))]


def tasks(include: Sequence[Path] = ()) -> dict[str, Task]:
    """Return all registered tasks and those defined in the given folders, by name.

    An entry point of ``knbench.tasks`` refers to a function that returns an iterable of tasks. One of
    ``knbench.task_folders`` refers to a function that takes a folder of definition files and returns its tasks. A
    plug-in that cannot be used is left out, with a warning. So is a task that has the name of a built-in task, or of a
    task of another plug-in.

    Raises:
        KnbenchError: a folder does not exist or contains an invalid definition, or a folder defines a task that exists.
    """
    found = unique(TASKS, _usable(TASKS, _tasks_of))
    for folder in include:
        if not folder.is_dir():
            raise KnbenchError(f"--include-path '{folder}' is not a directory")
        _add(found, _tasks_in(folder))
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
    point = points[reader]
    found = _call(point, load_reader(point), reader, selection or None, data.get(reader))
    try:
        task, notes = found
        (task,) = _checked_tasks(point, [task])
        return task, list(notes)
    except (TypeError, ValueError):
        raise KnbenchError(f"{label(point)} returned {type(found).__name__}, not a task and a list of notes") from None


def load_reader(point: EntryPoint) -> Callable[..., Any]:
    """Return the function of an entry point of :data:`READERS`.

    Raises:
        KnbenchError: it cannot be imported or is not a function.
    """
    reader: Callable[..., Any] = load(point)
    if not callable(reader):
        raise KnbenchError(f"{label(point)} is not a function")
    return reader


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
    error = unknown_name("task", name, known)
    return error if include else KnbenchError(f"{error}; for a task of your own, add --include-path FOLDER")
