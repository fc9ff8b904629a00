"""What the results of a method still lack for the boards that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .board_places import Place, asked, places_of
from .boards import Board
from .documents import release_series
from .runs import Run


def board_progress(runs: Sequence[Run], boards: Mapping[str, Board]) -> list[str]:
    """Return one line per method, model and table of a board: whether the results complete it, and what is missing.

    A board ranks a method in a table only with exactly its cases and probes of all tasks. Tables of which a method has
    no task as the board demands it are named only if that is so of all of them. Results of another release series than
    the board's count as missing.

    Args:
        runs: results of one or more methods.
        boards: the definitions.

    Raises:
        KnbenchError: records are missing or differ from the ones that were scored.
    """
    found: dict[tuple[str, str, str, str], dict[str, Place]] = {}
    for run in runs:
        result = run.result
        current = {k: b for k, b in boards.items() if b.benchmark == release_series(result.benchmark_version)}
        for place in places_of(result, asked(run.records()), current) if current else ():
            key = (result.editor.name, result.model.name, place.board.label, place.table.name)
            places = found.setdefault(key, {})
            if not (result.task.name in places and places[result.task.name].exact):
                places[result.task.name] = place
    begun = {key[0] for key, places in found.items() if any(place.exact for place in places.values())}
    shown = {
        key: places
        for key, places in found.items()
        if key[0] not in begun or any(place.exact for place in places.values())
    }
    return [_line(key, places) for key, places in sorted(shown.items())]


def _line(key: tuple[str, str, str, str], places: Mapping[str, Place]) -> str:
    method, model, board, table = key
    tasks = next(iter(places.values())).table.tasks
    exact = [task for task in tasks if task in places and places[task].exact]
    where = f"{method} on {model}, {board}, {table}"
    if len(exact) == len(tasks):
        return f"{where}: complete"
    parts = [f"{len(exact)} of {len(tasks)} tasks"]
    missing = [task for task in tasks if task not in places]
    if missing:
        parts.append(f"missing: {', '.join(missing)}")
    parts += [f"{t}: {p.settings or p.questions}" for t, p in sorted(places.items()) if not p.exact]
    return f"{where}: {'; '.join(parts)}"
