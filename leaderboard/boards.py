"""Boards: methods as rows, criteria as columns, for facts, for phenomena, together, and for each task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..benchmark.results.comparison import KINDS, RankedMethod, Values, places
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.intervals import mean_over_tasks
from .cells import Cell, cell
from .entries import Entry, Section, share_of

SCORES = {"score": "S", "extended_score": "S extended"}
SCORE_NOTES = {
    "score": "Harmonic mean of reliability, paraphrase and neighbourhood (ROME's S).",
    "extended_score": "Harmonic mean of S's criteria with symmetry and synonymous invariance, where there are any.",
}
RANKED_BY = ("extended_score", "score", "reliability")
"""The first of these that a board has decides its order and its ranks."""


@dataclass(frozen=True)
class BoardRow:
    """One method of a board.

    Attributes:
        rank: the places it may have, empty where it is not ranked.
        unranked: why it is not ranked.
        group: the number of its tie group, counted from the best; 0 where it is not ranked.
    """

    method: str
    summary: str
    badges: Sequence[str]
    rank: str
    unranked: str
    group: int
    best: int
    cells: Sequence[Cell | None]
    raw: Mapping[str, Mapping[str, Any]]
    seconds: float | None
    failed: int
    tasks: int


@dataclass(frozen=True)
class Board:
    """A table of one section and one measure.

    Attributes:
        name: its short name in addresses: ``facts``, ``phenomena``, ``together`` or a task's.
        columns: name, title and question of each criterion.
        ranked_by: the title of what decides the order.
    """

    name: str
    title: str
    kind: str
    columns: Sequence[tuple[str, str, str]]
    lines: Sequence[BoardRow]
    tasks: Sequence[tuple[str, int]]
    ranked_by: str


def boards_of(section: Section, measure: str) -> list[Board]:
    """Return the means over tasks: facts, phenomena, and both where there are both."""
    views = [(name, title.capitalize(), kind) for kind, (name, title) in _VIEWS.items() if section.tasks(kind)]
    if len(views) > 1:
        views.append(("together", "Facts and phenomena together", ""))
    made = [
        _board(section, measure, name, _title(section, title, tasks), kind, tasks)
        for name, title, kind in views
        for tasks in [section.tasks(kind or None)]
    ]
    return [board for board in made if board.columns]


def _title(section: Section, title: str, tasks: Sequence[tuple[str, int]]) -> str:
    """Return a view's title, with the task where there is only one."""
    about = next(iter(section.entries[tasks[0]].values())).result["task"]
    return title if len(tasks) > 1 else f"{title}: {about['title']}"


_VIEWS = {kind: (title, title) for kind, title in KINDS.items()}


def task_board(section: Section, measure: str, task: tuple[str, int]) -> Board:
    """Return the table of one task."""
    about = next(iter(section.entries[task].values())).result["task"]
    return _board(section, measure, task_slug(task), about["title"], about["kind"], [task])


def task_slug(task: tuple[str, int]) -> str:
    """Return a task's name in addresses."""
    return f"{task[0]}-v{task[1]}"


def _board(section: Section, measure: str, name: str, title: str, kind: str, tasks: Sequence[tuple[str, int]]) -> Board:
    entries = {m: [section.entries[t][m] for t in tasks if m in section.entries[t]] for m in section.methods}
    entries = {method: found for method, found in entries.items() if found}
    whole = [method for method, found in entries.items() if len(found) == len(tasks)]
    values = [{m: section.entries[t][m].values[measure] for m in whole} for t in tasks]
    scores, decisive = _scores(values, measure, ranked=not section.limited)
    raw = {m: _numbers(found, measure, kind, scores if m in whole else {}) for m, found in entries.items()}
    present = {criterion for numbers in raw.values() for criterion in numbers}
    columns = [(s, SCORES[s], SCORE_NOTES[s]) for s in RANKED_BY if s in present and s in SCORES]
    columns += [(c.name, c.title, c.question) for c in CRITERIA.values() if c.name in present]
    ranks = scores.get(decisive, {})
    lines = [
        _line(method, found, raw[method], measure, columns, ranks.get(method), _unranked(section, found, tasks))
        for method, found in entries.items()
    ]
    lines.sort(key=lambda line: (bool(line.unranked), -_value(line, decisive), line.method))
    title_of = {name: title for name, title, _ in columns}
    return Board(name, title, kind, columns, _grouped(lines), tasks, title_of.get(decisive, ""))


def _scores(
    values: Sequence[Mapping[str, Values]], measure: str, *, ranked: bool
) -> tuple[dict[str, dict[str, RankedMethod]], str]:
    """Return every score of whole methods, with ranks by the first of :data:`RANKED_BY` that there is, and which."""
    found: dict[str, dict[str, RankedMethod]] = {}
    for score in RANKED_BY if share_of(measure) else RANKED_BY[-1:]:
        decided = bool(found)
        if score in SCORES or not decided:
            table = places(values, score, ranked=ranked and not decided)
            found |= {score: {place.editor: place for place in table}} if table else {}
    return found, next(iter(found), "")


def _unranked(section: Section, entries: Sequence[Entry], tasks: Sequence[tuple[str, int]]) -> str:
    if len(entries) < len(tasks):
        return f"{len(entries)} of {len(tasks)} tasks"
    return "limited" if section.limited else ""


def _value(line: BoardRow, criterion: str) -> float:
    return float(line.raw[criterion]["value"]) if criterion in line.raw else -1.0


def _numbers(
    entries: Sequence[Entry], measure: str, kind: str, scores: Mapping[str, Mapping[str, RankedMethod]]
) -> dict[str, Mapping[str, Any]]:
    """Return a method's numbers by criterion: of one task the result's own, of several their mean."""
    if len(entries) == 1:
        return {row["criterion"]: row for row in entries[0].result["summary"] if row["measure"] == measure}
    found: dict[str, Mapping[str, Any]] = {}
    for criterion in CRITERIA:
        tasks = [list(e.values[measure][criterion].values()) for e in entries if criterion in e.values[measure]]
        if tasks:
            estimate = mean_over_tasks(tasks, share=share_of(measure), clusters=kind == "linguistic")
            found[criterion] = {
                "value": estimate.value, "low": estimate.low, "high": estimate.high, "interval": estimate.method,
                "cases": sum(map(len, tasks)), "tasks": len(tasks),
            }  # fmt: skip
    for score in SCORES:
        place = scores.get(score, {}).get(entries[0].method)
        if place:
            found[score] = {
                "value": place.value, "low": place.low, "high": place.high, "interval": "percentile",
                "cases": place.cases, "tasks": len(entries),
            }  # fmt: skip
    return found


def _line(
    method: str,
    entries: Sequence[Entry],
    raw: Mapping[str, Mapping[str, Any]],
    measure: str,
    columns: Sequence[tuple[str, str, str]],
    place: RankedMethod | None,
    unranked: str,
) -> BoardRow:
    seconds = [s for e in entries if (s := e.result["cost"]["edit_seconds"]) is not None]
    rank = "" if unranked or not place else _span(place.best, place.worst)
    return BoardRow(
        method=method,
        summary=entries[0].result["editor"]["summary"],
        badges=sorted({badge for entry in entries for badge in entry.badges}),
        rank=rank,
        unranked=unranked,
        group=0,
        best=place.best if rank and place else 0,
        cells=[cell(raw.get(name), measure) for name, _, _ in columns],
        raw=raw,
        seconds=median(seconds) if seconds else None,
        failed=sum(e.result["records"]["failed"] for e in entries),
        tasks=len(entries),
    )


def _span(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}\N{EN DASH}{worst}"


def _grouped(lines: Sequence[BoardRow]) -> list[BoardRow]:
    """Number the tie groups: methods that share their best possible rank."""
    groups = {best: number for number, best in enumerate(sorted({line.best for line in lines if line.best}), start=1)}
    return [BoardRow(**{**line.__dict__, "group": groups.get(line.best, 0)}) for line in lines]


def board_csv(board: Board, section: Section, measure: str) -> str:
    """Return a table's numbers as CSV: one line per method and criterion, with intervals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = board_rows(board, section, measure)
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        # A leading quote keeps a spreadsheet from running a name as a formula.
        text = (f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for v in row.values())
        writer.writerow(["" if v is None else v for v in text])
    return out.getvalue()


def board_json(board: Board, section: Section, measure: str) -> str:
    """Return a table's numbers as JSON, as :func:`board_csv` has them."""
    return json.dumps(board_rows(board, section, measure), indent=1, ensure_ascii=False) + "\n"


def board_rows(board: Board, section: Section, measure: str) -> list[dict[str, Any]]:
    """Return a table's numbers, one row per method and criterion."""
    return [
        {
            "table": board.name,
            "model": section.model["name"],
            "method": line.method,
            "rank": line.rank,
            "criterion": criterion,
            "measure": measure,
            **{key: found.get(key) for key in ("value", "low", "high", "cases", "tasks")},
        }
        for line in board.lines
        for criterion, found in line.raw.items()
    ]
