"""Tables of a board: methods as rows, scores, criteria and costs as columns, in one view; and their exports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..benchmark.core.schema import TaskKind
from ..benchmark.results.comparison import RankedMethod, rank_methods
from ..benchmark.scoring.criteria import CRITERIA
from ..benchmark.scoring.intervals import mean_over_tasks
from .cells import Cell, Score, cell, format_bytes, format_seconds
from .columns import (
    COMPOSITES,
    COSTS,
    EDIT_SCORE_VIEW,
    VIEWS,
    Column,
    edit_score_cells,
    edit_score_columns,
    measure_columns,
    sequential_cells,
)
from .entries import Entry, Section, is_share
from .standings import Standing, Standings

Scores = Mapping[str, Mapping[str, Score]]
"""By method, then by name of a column."""


@dataclass(frozen=True, eq=False)
class TableRow:
    """One method of a table.

    Attributes:
        cells: one per column; None where the method has no number.
    """

    standing: Standing
    cells: Sequence[Cell | None]


@dataclass(frozen=True, eq=False)
class TableView:
    """Standings in one view.

    Attributes:
        columns: the columns beside rank and method.
    """

    standings: Standings
    view: str
    columns: Sequence[Column]
    rows: Sequence[TableRow]


def scores_by_view(section: Section, found: Standings) -> dict[str, Scores]:
    """Return the numbers of all methods by view."""
    by_view: dict[str, Scores] = {}
    for view in VIEWS:
        if view != EDIT_SCORE_VIEW:
            by_view[view] = _measure_scores(section, found, view)
    # The scores of the literature are columns of the first view, too.
    literature = {
        row.method: {c.name: by_view["success"][row.method][c.name] for c in COMPOSITES
                     if c.name in by_view["success"][row.method]}
        for row in found.rows
    }  # fmt: skip
    parts = {
        row.method: {
            **(edit_score_cells(row.scored) if row.scored else {}),
            **sequential_cells([entry.result for entry in row.entries]),
            **literature[row.method],
        }
        for row in found.rows
    }
    return {EDIT_SCORE_VIEW: parts, **by_view}


def table_view(found: Standings, view: str, scores: Mapping[str, Scores]) -> TableView:
    """Return the table of some standings in a view.

    Args:
        found: the standings.
        view: one of :data:`VIEWS`.
        scores: the result of :func:`scores_by_view`.
    """
    costs = {row.method: _cost_cells(row) for row in found.rows}
    present = {name for by_name in scores[view].values() for name in by_name}
    present |= {name for by_name in costs.values() for name in by_name}
    if view == EDIT_SCORE_VIEW:
        columns, share = edit_score_columns(present, one_task=len(found.tasks) == 1), True
    else:
        columns, share = measure_columns(present, share=is_share(view)), is_share(view)
    rows = []
    for row in found.rows:
        numbers = {**scores[EDIT_SCORE_VIEW].get(row.method, {}), **scores[view].get(row.method, {})}
        formatted = {c.name: cell(numbers.get(c.name), share=share or c.style == "score") for c in columns}
        rows.append(TableRow(row, [costs[row.method].get(c.name, formatted[c.name]) for c in columns]))
    return TableView(found, view, columns, rows)


def has_numbers(found: TableView) -> bool:
    """Return whether a table has a number beside the edit score and the costs."""
    others = {column.name for column in (*COSTS, *COMPOSITES)} | {"edit_score"}
    return any(column.name not in others for column in found.columns)


def _cost_cells(row: Standing) -> dict[str, Cell]:
    """Return the costs of a method that were measured, as cells by column."""
    numbers = [
        ("seconds", row.seconds, format_seconds),
        ("changed", row.size("changed"), format_bytes),
        ("memory", row.size("memory"), format_bytes),
        ("facts_kept", row.size("facts"), "{:.0f}".format),
        ("bytes_per_fact", row.cost("bytes_per_fact"), format_bytes),
        ("seconds_per_query", row.cost("seconds_per_query"), format_seconds),
        ("training", row.training_seconds, format_seconds),
        ("peak_memory", row.cost("peak_memory_mb"), "{:.0f}".format),
        ("failed", float(row.failed), "{:.0f}".format),
    ]
    return {name: Cell(form(value), "", "", None, "", value) for name, value, form in numbers if value is not None}


_NUMBER = ("value", "low", "high", "cases", "tasks")
"""Keys of the numbers of an export."""


def _measure_scores(section: Section, found: Standings, measure: str) -> dict[str, dict[str, Score]]:
    """Return criteria and scores of the literature by a measure, by method."""
    complete = [row.method for row in found.rows if row.complete]
    composites: dict[str, dict[str, RankedMethod]] = {}
    if is_share(measure) and complete:
        values = [{m: section.entries[t][m].values.get(measure, {}) for m in complete} for t in found.tasks]
        for column in COMPOSITES:
            ranked = rank_methods(values, column.name, ranked=False)
            composites[column.name] = {row.editor: row for row in ranked}
    return {
        row.method: _scores(row.entries, measure, found.kind, composites if row.method in complete else {})
        for row in found.rows
    }


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
        by_task = (entry.values.get(measure, {}).get(criterion) for entry in entries)
        tasks = [list(values.values()) for values in by_task if values]
        if tasks:
            estimate = mean_over_tasks(tasks, share=is_share(measure), clusters=kind == "linguistic")
            cases = sum(map(len, tasks))
            scores[criterion] = Score(
                estimate.value, estimate.low, estimate.high, estimate.method, cases, tasks=len(tasks)
            )
    for column in COMPOSITES:
        method = composites.get(column.name, {}).get(entries[0].method)
        if method:
            scores[column.name] = Score(
                method.value, method.low, method.high, "percentile", method.cases, tasks=len(entries)
            )
    return scores


def export_records(section: Section, found: Standings, scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Return the numbers of a table in all views for export, one record per method, view and column."""
    return [
        {
            "table": found.name,
            "model": section.model.name,
            "method": row.method,
            "rank": row.rank,
            "criterion": criterion,
            "measure": view,
            "value": _rounded(score.value),
            "low": _rounded(score.low),
            "high": _rounded(score.high),
            "cases": score.cases,
            "tasks": score.tasks,
        }
        for view, by_method in scores.items()
        for row in found.rows
        for criterion, score in by_method.get(row.method, {}).items()
    ]


def _rounded(value: float | None) -> float | None:
    """Return a number with the digits that exports have: far more than its interval gives a meaning to."""
    return None if value is None else round(value, 6)


def export_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the numbers of a table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(records[0] if records else [])
    for record in records:
        # A leading quote prevents spreadsheets from evaluating a name as a formula.
        values = (f"'{v}" if isinstance(v, str) and v.startswith(("=", "+", "-", "@")) else v for v in record.values())
        writer.writerow(["" if v is None else v for v in values])
    return out.getvalue()


def export_json(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the numbers of a table as JSON: one object per method and line, with its numbers by measure and criterion.

    A number has the keys ``value``, ``low``, ``high``, ``cases`` and ``tasks`` of :func:`export_csv`; an interval that
    does not exist is left out.
    """
    methods: dict[str, dict[str, Any]] = {}
    for record in records:
        about = {key: record[key] for key in ("table", "model", "method", "rank")}
        numbers = methods.setdefault(record["method"], {**about, "measures": {}})["measures"]
        number = {key: record[key] for key in _NUMBER if record[key] is not None}
        numbers.setdefault(record["measure"], {})[record["criterion"]] = number
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in methods.values())
    return f"[\n{lines}\n]\n"
