"""Boards: methods as rows, criteria as columns, for facts, phenomena, both together, and each task."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from ..benchmark.core.schema import TaskKind
from ..benchmark.results.comparison import KINDS, RankedMethod, rank_methods
from ..benchmark.results.controls import LIMITS, control_violations
from ..benchmark.results.edit_scores import ScoredMethod, rank_by_edit_score
from ..benchmark.results.method_names import differing_settings
from ..benchmark.results.trust import Trust, lowest
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.intervals import mean_over_tasks
from .cells import Cell, Score, cell
from .columns import EDIT_SCORE_VIEW, Column, edit_score_cells, edit_score_columns, sequential_cells
from .entries import Entry, Section, TaskKey, is_share
from .paths import task_slug

COMPOSITE_TITLES = {"score": "S", "extended_score": "S extended"}
COMPOSITE_NOTES = {
    "score": "Harmonic mean of reliability, paraphrase and neighbourhood (S of ROME).",
    "extended_score": "Harmonic mean of the criteria of S, and of symmetry and synonymous invariance where defined.",
}
"""Scores of the literature. None of them orders a board."""
OVERVIEWS: Mapping[TaskKind, str] = {"fact": KINDS["fact"], "linguistic": KINDS["linguistic"]}
"""Name of the board of all tasks of a kind."""


@dataclass(frozen=True)
class BoardRow:
    """One method of a board.

    Attributes:
        summary: description of the method in one line.
        rank: interval of ranks as text; empty if the method is not ranked.
        unranked: reason why the method is not ranked; empty otherwise.
        tie_group: number of the tie group, 1 for the best; 0 if the method is not ranked.
        best_rank: lower end of the interval of ranks; 0 if the method is not ranked.
        kind: what the method changes, or ``control``.
        trust: the lowest level of trust of its results.
        cells: one per column; None where the method has no score.
        scores: by name of a column.
        scored: the edit score and its parts; None where it is undefined.
        seconds: median over tasks of the seconds per edit; None if no time was measured.
        failed: number of failed edits.
        tasks: number of tasks.
    """

    method: str
    summary: str
    kind: str
    trust: Trust
    rank: str
    unranked: str
    tie_group: int
    best_rank: int
    cells: Sequence[Cell | None]
    scores: Mapping[str, Score]
    scored: ScoredMethod | None
    seconds: float | None
    failed: int
    tasks: int


@dataclass(frozen=True)
class Board:
    """A table of the methods of one section in one view, ordered by the edit score.

    Attributes:
        name: name in paths: ``facts``, ``phenomena``, ``together`` or the name of a task.
        kind: kind of the tasks; None for both kinds together.
        violations: sentences on controls whose scores show that the board cannot be trusted.
    """

    name: str
    title: str
    kind: TaskKind | None
    columns: Sequence[Column]
    rows: Sequence[BoardRow]
    tasks: Sequence[TaskKey]
    violations: Sequence[str]


def overview_boards(section: Section, view: str) -> list[Board]:
    """Return the boards of means over tasks: facts, phenomena, and both together if the section has both.

    Boards without a column are left out.

    Args:
        section: the section.
        view: one of :data:`VIEWS`.
    """
    kinds: list[tuple[str, str, TaskKind | None]] = [
        (name, name.capitalize(), kind) for kind, name in OVERVIEWS.items() if _tasks(section, kind)
    ]
    if len(kinds) > 1:
        kinds.append(("together", "Facts and phenomena together", None))
    boards = []
    for name, title, kind in kinds:
        tasks = _tasks(section, kind)
        if len(tasks) == 1 and tasks[0] in section.entries:
            title = f"{title}: {section.task_card(tasks[0]).title}"
        boards.append(_board(section, view, name, title, kind, tasks))
    return [board for board in boards if board.columns and board.rows]


def _tasks(section: Section, kind: TaskKind | None) -> list[TaskKey]:
    """Return the tasks of an overview: those of the board, with or without results.

    Without a board, they are the tasks with a result that can be ranked, or all if there is none: a self-reported
    result on one more task must not make the results of all others incomplete.
    """
    if section.board is not None:
        return [task for task in section.required if kind in (None, section.board.tasks[task[0]].kind)]
    tasks = section.tasks(kind)
    ranked = [task for task in tasks if any(entry.trust.ranked for entry in section.entries[task].values())]
    return ranked or tasks


def task_board(section: Section, view: str, task: TaskKey) -> Board:
    """Return the board of one task."""
    card = section.task_card(task)
    return _board(section, view, task_slug(task), card.title, card.kind, [task])


def _board(
    section: Section, view: str, name: str, title: str, kind: TaskKind | None, tasks: Sequence[TaskKey]
) -> Board:
    members_of = {task: section.entries.get(task, {}) for task in tasks}
    entries = {m: [members_of[t][m] for t in tasks if m in members_of[t]] for m in section.methods}
    entries = {method: members for method, members in entries.items() if members}
    # A method that is tuned for each task is not one method: its mean over tasks is not ranked.
    mixed = {m: differing_settings(entry.result for entry in members) for m, members in entries.items()}
    complete = [
        m
        for m, members in entries.items()
        if len(members) == len(tasks) and not mixed[m] and not any(entry.deviation for entry in members)
    ]
    # Ranks depend on all ranked methods: a result that nobody verified must not change those of others.
    trusted = [m for m in complete if _can_be_ranked(section, entries[m])]
    ranked = _edit_scores(section, trusted, tasks, ranked=not section.limited)
    unverified = [m for m in complete if m not in trusted]
    scored = {**ranked, **_edit_scores(section, unverified, tasks, ranked=False)}
    for method, members in entries.items():
        if method not in scored:
            scored |= {row.method: row for row in rank_by_edit_score([{method: e.case_values} for e in members])}
    if view == EDIT_SCORE_VIEW:
        scores: Mapping[str, Mapping[str, Score]] = {
            m: {**edit_score_cells(row), **sequential_cells([entry.result for entry in entries[m]])}
            for m, row in scored.items()
        }
        columns = edit_score_columns({name for found in scores.values() for name in found})
    else:
        scores = _measure_scores(section, entries, complete, view, kind, tasks)
        columns = _measure_columns({name for found in scores.values() for name in found})
    rows = [
        _row(
            method,
            members,
            scores.get(method, {}),
            True if view == EDIT_SCORE_VIEW else is_share(view),
            columns,
            scored.get(method),
            _unranked(section, members, tasks, mixed[method], has_score=method in ranked),
        )
        for method, members in entries.items()
    ]
    rows.sort(key=lambda row: (bool(row.unranked), -(row.scored.value if row.scored else -1.0), row.method))
    kinds = {m: members[0].result.editor.kind for m, members in entries.items()}
    violations = control_violations({m: row.value for m, row in ranked.items()}, kinds)
    return Board(name, title, kind, columns, _with_tie_groups(rows), tasks, violations)


def _can_be_ranked(section: Section, entries: Sequence[Entry]) -> bool:
    """Return whether the trust in the results of a row allows a rank: on no board, only somebody's own runs do."""
    trust = lowest([entry.trust for entry in entries])
    return trust.ranked if section.board else trust.level == "own run"


def _edit_scores(
    section: Section, methods: Sequence[str], tasks: Sequence[TaskKey], *, ranked: bool
) -> dict[str, ScoredMethod]:
    """Return the edit scores of methods with results on all tasks, by method."""
    values = [{m: section.entries[t][m].case_values for m in methods} for t in tasks]
    return {row.method: row for row in rank_by_edit_score(values, ranked=ranked)} if methods else {}


def _measure_columns(present: Collection[str]) -> list[Column]:
    """Return the columns of a measure: the scores of the literature, then the criteria."""
    columns = [Column(name, title, COMPOSITE_NOTES[name]) for name, title in COMPOSITE_TITLES.items()]
    columns += [Column(c.name, c.title, c.question) for c in CRITERIA.values()]
    return [column for column in columns if column.name in present]


def _measure_scores(
    section: Section,
    entries: Mapping[str, Sequence[Entry]],
    complete: Sequence[str],
    measure: str,
    kind: TaskKind | None,
    tasks: Sequence[TaskKey],
) -> dict[str, dict[str, Score]]:
    """Return criteria and scores of the literature by a measure, by method."""
    composites: dict[str, dict[str, RankedMethod]] = {}
    if is_share(measure) and complete:
        values = [{m: section.entries[t][m].values[measure] for m in complete} for t in tasks]
        for score in COMPOSITE_TITLES:
            composites[score] = {row.editor: row for row in rank_methods(values, score, ranked=False)}
    return {m: _scores(members, measure, kind, composites if m in complete else {}) for m, members in entries.items()}


def _unranked(
    section: Section,
    entries: Sequence[Entry],
    tasks: Sequence[TaskKey],
    mixed: Mapping[str, Sequence[Any]],
    *,
    has_score: bool,
) -> str:
    """Return the reason why a method is not ranked; empty if it is ranked."""
    if mixed:
        return f"settings differ between tasks: {', '.join(mixed)}"
    if len(entries) < len(tasks):
        return f"{len(entries)} of {len(tasks)} tasks"
    deviating = next((entry for entry in entries if entry.deviation), None)
    if deviating is not None:
        return f"{deviating.task[0]}: {deviating.deviation}"
    if section.limited:
        return "limited"
    if not _can_be_ranked(section, entries):
        return "no board" if section.board is None else "self-reported"
    return "" if has_score else "no edit score"


def _scores(
    entries: Sequence[Entry],
    measure: str,
    kind: TaskKind | None,
    composites: Mapping[str, Mapping[str, RankedMethod]],
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
        method = composites.get(score, {}).get(entries[0].method)
        if method:
            scores[score] = Score(method.value, method.low, method.high, "percentile", method.cases, tasks=len(entries))
    return scores


def _row(
    method: str,
    entries: Sequence[Entry],
    scores: Mapping[str, Score],
    share: bool,
    columns: Sequence[Column],
    scored: ScoredMethod | None,
    unranked: str,
) -> BoardRow:
    seconds = [s for e in entries if (s := e.result.cost.edit_seconds) is not None]
    has_rank = scored is not None and not unranked
    return BoardRow(
        method=method,
        summary=entries[0].result.editor.summary,
        kind=entries[0].result.editor.kind or ("control" if method in LIMITS else ""),
        trust=lowest([entry.trust for entry in entries]),
        rank=_format_rank(scored.best, scored.worst) if scored and has_rank else "",
        unranked=unranked,
        tie_group=0,
        best_rank=scored.best if scored and has_rank else 0,
        cells=[cell(scores.get(column.name), share=share) for column in columns],
        scores=scores,
        scored=scored,
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


def board_csv(board: Board, section: Section, view: str) -> str:
    """Return the numbers of a board as CSV: one line per method and criterion."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = board_records(board, section, view)
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        # A leading quote prevents spreadsheets from evaluating a name as a formula.
        values = (f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for v in row.values())
        writer.writerow(["" if v is None else v for v in values])
    return out.getvalue()


def board_json(board: Board, section: Section, view: str) -> str:
    """Return the numbers of a board as JSON, with the keys of :func:`board_csv`."""
    return json.dumps(board_records(board, section, view), indent=1, ensure_ascii=False) + "\n"


def board_records(board: Board, section: Section, view: str) -> list[dict[str, Any]]:
    """Return the numbers of a board for export, one record per method and criterion."""
    return [
        {
            "table": board.name,
            "model": section.model.name,
            "method": row.method,
            "rank": row.rank,
            "criterion": criterion,
            "measure": view,
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "cases": score.cases,
            "tasks": score.tasks,
        }
        for row in board.rows
        for criterion, score in row.scores.items()
    ]
