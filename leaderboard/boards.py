"""Boards: methods as rows, criteria as columns, for facts, phenomena, both together, and each task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ..benchmark.core.schema import TaskKind
from ..benchmark.results.comparison import KINDS, RankedMethod, Values, rank_methods
from ..benchmark.results.method_names import differing_settings
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.intervals import mean_over_tasks
from .cells import Cell, Score, cell
from .entries import Entry, Section, TaskKey, is_share
from .paths import task_slug

COMPOSITE_TITLES = {"score": "S", "extended_score": "S extended"}
COMPOSITE_NOTES = {
    "score": "Harmonic mean of reliability, paraphrase and neighbourhood (S of ROME).",
    "extended_score": "Harmonic mean of the criteria of S, and of symmetry and synonymous invariance where defined.",
}
RANK_CRITERIA = ("extended_score", "score", "reliability")
"""Criteria and composite scores that rank methods. The first one that a board has is used."""
OVERVIEWS: Mapping[TaskKind, str] = {"fact": KINDS["fact"], "linguistic": KINDS["linguistic"]}
"""Name of the board of all tasks of a kind."""


@dataclass(frozen=True)
class Column:
    """A criterion or composite score of a board.

    Attributes:
        name: identifier in exports and saved table states.
        title: heading.
        note: tooltip of the heading.
    """

    name: str
    title: str
    note: str


@dataclass(frozen=True)
class BoardRow:
    """One method of a board.

    Attributes:
        summary: description of the method in one line.
        rank: interval of ranks as text; empty if the method is not ranked.
        unranked: reason why the method is not ranked; empty otherwise.
        tie_group: number of the tie group, 1 for the best; 0 if the method is not ranked.
        best_rank: lower end of the interval of ranks; 0 if the method is not ranked.
        cells: one per column; None where the method has no score.
        scores: by criterion or composite score.
        seconds: median over tasks of the seconds per edit; None if no time was measured.
        failed: number of failed edits.
        tasks: number of tasks.
    """

    method: str
    summary: str
    badges: Sequence[str]
    rank: str
    unranked: str
    tie_group: int
    best_rank: int
    cells: Sequence[Cell | None]
    scores: Mapping[str, Score]
    seconds: float | None
    failed: int
    tasks: int


@dataclass(frozen=True)
class Board:
    """A table of the methods of one section by one measure.

    Attributes:
        name: name in paths: ``facts``, ``phenomena``, ``together`` or the name of a task.
        kind: kind of the tasks; None for both kinds together.
        ranked_by: title of the score that orders the rows; empty if there is none.
    """

    name: str
    title: str
    kind: TaskKind | None
    columns: Sequence[Column]
    rows: Sequence[BoardRow]
    tasks: Sequence[TaskKey]
    ranked_by: str


def overview_boards(section: Section, measure: str) -> list[Board]:
    """Return the boards of means over tasks: facts, phenomena, and both if the section has both.

    Boards without a column are left out.
    """
    kinds: list[tuple[str, str, TaskKind | None]] = [
        (name, name.capitalize(), kind) for kind, name in OVERVIEWS.items() if section.tasks(kind)
    ]
    if len(kinds) > 1:
        kinds.append(("together", "Facts and phenomena together", None))
    boards = []
    for name, title, kind in kinds:
        tasks = section.tasks(kind)
        if len(tasks) == 1:
            title = f"{title}: {section.task_card(tasks[0]).title}"
        boards.append(_board(section, measure, name, title, kind, tasks))
    return [board for board in boards if board.columns]


def task_board(section: Section, measure: str, task: TaskKey) -> Board:
    """Return the board of one task."""
    card = section.task_card(task)
    return _board(section, measure, task_slug(task), card.title, card.kind, [task])


def _board(
    section: Section, measure: str, name: str, title: str, kind: TaskKind | None, tasks: Sequence[TaskKey]
) -> Board:
    entries = {m: [section.entries[t][m] for t in tasks if m in section.entries[t]] for m in section.methods}
    entries = {method: members for method, members in entries.items() if members}
    # A method that is tuned for each task is not one method: its mean over tasks is not ranked.
    mixed = {m: differing_settings(entry.result for entry in members) for m, members in entries.items()}
    complete = [m for m, members in entries.items() if len(members) == len(tasks) and not mixed[m]]
    values = [{m: section.entries[t][m].values[measure] for m in complete} for t in tasks]
    ranked, rank_criterion = _ranked_methods(values, measure, ranked=not section.limited)
    scores = {m: _scores(members, measure, kind, ranked if m in complete else {}) for m, members in entries.items()}
    present = {criterion for method_scores in scores.values() for criterion in method_scores}
    columns = [
        Column(score, COMPOSITE_TITLES[score], COMPOSITE_NOTES[score])
        for score in RANK_CRITERIA
        if score in present and score in COMPOSITE_TITLES
    ]
    columns += [Column(c.name, c.title, c.question) for c in CRITERIA.values() if c.name in present]
    ranks = ranked.get(rank_criterion, {})
    rows = [
        _row(
            method,
            members,
            scores[method],
            measure,
            columns,
            ranks.get(method),
            _unranked(section, members, tasks, mixed[method]),
        )
        for method, members in entries.items()
    ]
    rows.sort(key=lambda row: (bool(row.unranked), -_sort_value(row, rank_criterion), row.method))
    titles = {column.name: column.title for column in columns}
    return Board(name, title, kind, columns, _with_tie_groups(rows), tasks, titles.get(rank_criterion, ""))


def _ranked_methods(
    values: Sequence[Mapping[str, Values]], measure: str, *, ranked: bool
) -> tuple[dict[str, dict[str, RankedMethod]], str]:
    """Return the composite scores of complete methods, and the criterion that ranks them.

    Returns:
        By score, then by method, the score with its interval. The first of :data:`RANK_CRITERIA` that is defined has
        ranks. Its name; empty if none is defined.
    """
    by_score: dict[str, dict[str, RankedMethod]] = {}
    for score in RANK_CRITERIA if is_share(measure) else RANK_CRITERIA[-1:]:
        is_first = not by_score
        if score in COMPOSITE_TITLES or is_first:
            methods = rank_methods(values, score, ranked=ranked and is_first)
            if methods:
                by_score[score] = {method.editor: method for method in methods}
    return by_score, next(iter(by_score), "")


def _unranked(
    section: Section, entries: Sequence[Entry], tasks: Sequence[TaskKey], mixed: Mapping[str, Sequence[Any]]
) -> str:
    """Return the reason why a method is not ranked; empty if it is ranked."""
    if mixed:
        return f"settings differ between tasks: {', '.join(mixed)}"
    if len(entries) < len(tasks):
        return f"{len(entries)} of {len(tasks)} tasks"
    return "limited" if section.limited else ""


def _sort_value(row: BoardRow, criterion: str) -> float:
    return row.scores[criterion].value if criterion in row.scores else -1.0


def _scores(
    entries: Sequence[Entry],
    measure: str,
    kind: TaskKind | None,
    ranked: Mapping[str, Mapping[str, RankedMethod]],
) -> dict[str, Score]:
    """Return a method's scores by criterion: of one task the summary of the result, of several tasks their mean."""
    if len(entries) == 1:
        return {row.criterion: Score.of_task(row) for row in entries[0].result.summary if row.measure == measure}
    scores: dict[str, Score] = {}
    for criterion in CRITERIA:
        tasks = [list(e.values[measure][criterion].values()) for e in entries if criterion in e.values[measure]]
        if tasks:
            estimate = mean_over_tasks(tasks, share=is_share(measure), clusters=kind == "linguistic")
            cases = sum(map(len, tasks))
            scores[criterion] = Score(
                estimate.value, estimate.low, estimate.high, estimate.method, cases, tasks=len(tasks)
            )
    for score in COMPOSITE_TITLES:
        method = ranked.get(score, {}).get(entries[0].method)
        if method:
            scores[score] = Score(method.value, method.low, method.high, "percentile", method.cases, tasks=len(entries))
    return scores


def _row(
    method: str,
    entries: Sequence[Entry],
    scores: Mapping[str, Score],
    measure: str,
    columns: Sequence[Column],
    ranked: RankedMethod | None,
    unranked: str,
) -> BoardRow:
    seconds = [s for e in entries if (s := e.result.cost.edit_seconds) is not None]
    has_rank = ranked is not None and not unranked
    return BoardRow(
        method=method,
        summary=entries[0].result.editor.summary,
        badges=sorted({badge for entry in entries for badge in entry.badges}),
        rank=_format_rank(ranked.best, ranked.worst) if ranked and has_rank else "",
        unranked=unranked,
        tie_group=0,
        best_rank=ranked.best if ranked and has_rank else 0,
        cells=[cell(scores.get(column.name), measure) for column in columns],
        scores=scores,
        seconds=median(seconds) if seconds else None,
        failed=sum(e.result.records.failed for e in entries),
        tasks=len(entries),
    )


def _format_rank(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}\N{EN DASH}{worst}"


def _with_tie_groups(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Number the tie groups: methods with the same best rank form a group."""
    ranks = sorted({row.best_rank for row in rows if row.best_rank})
    groups = {rank: number for number, rank in enumerate(ranks, start=1)}
    return [replace(row, tie_group=groups.get(row.best_rank, 0)) for row in rows]


def board_csv(board: Board, section: Section, measure: str) -> str:
    """Return the numbers of a board as CSV: one line per method and criterion."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = board_records(board, section, measure)
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        # A leading quote prevents spreadsheets from evaluating a name as a formula.
        values = (f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for v in row.values())
        writer.writerow(["" if v is None else v for v in values])
    return out.getvalue()


def board_json(board: Board, section: Section, measure: str) -> str:
    """Return the numbers of a board as JSON, with the keys of :func:`board_csv`."""
    return json.dumps(board_records(board, section, measure), indent=1, ensure_ascii=False) + "\n"


def board_records(board: Board, section: Section, measure: str) -> list[dict[str, Any]]:
    """Return the numbers of a board for export, one record per method and criterion."""
    return [
        {
            "table": board.name,
            "model": section.model.name,
            "method": row.method,
            "rank": row.rank,
            "criterion": criterion,
            "measure": measure,
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "cases": score.cases,
            "tasks": score.tasks,
        }
        for row in board.rows
        for criterion, score in row.scores.items()
    ]
