"""Methods across models, and across numbers of sequential edits, with the commands that fill the empty cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..benchmark.core.documents import Result
from ..benchmark.results.boards import BoardTable
from ..benchmark.results.documents import comparable
from .entries import TASK_KEYS, Entry, Section, TaskKey
from .navigation import Navigation
from .paths import result_page
from .run_commands import board_command, result_command

EDITS = (1, 10, 20, 100)
"""Numbers of sequential edits that have a column."""
MODEL_KEYS = ("model", "weights", "dtype", "bos_prepended")
"""Keys of :func:`comparable` that may differ between the columns of a matrix of models."""


@dataclass(frozen=True)
class MatrixCell:
    """A number of a matrix.

    Attributes:
        value: edit score in percent, or None without a result.
        page: path of the page that shows it.
        note: where it comes from, or the command that would measure it.
    """

    value: float | None
    page: str
    note: str


@dataclass(frozen=True)
class Gap:
    """Empty cells of a column: the methods without a result, and the command that runs them."""

    column: str
    methods: Sequence[str]
    command: str


@dataclass(frozen=True)
class Matrix:
    """Methods as rows, models or numbers of edits as columns.

    Attributes:
        note: what the numbers are means over.
        rows: each method with its cells, the best first.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[MatrixCell]]]
    gaps: Sequence[Gap]


def value_of(entries: Sequence[Entry]) -> float | None:
    """Return the edit score over some tasks: the mean over the tasks of each kind, and of the kinds."""
    by_kind: dict[str, list[float]] = {}
    for entry in entries:
        if entry.score is None:
            return None
        by_kind.setdefault(entry.result.task.kind, []).append(float(entry.score.value))
    means = [sum(values) / len(values) for values in by_kind.values()]
    return 100 * sum(means) / len(means) if means else None


# --- models ------------------------------------------------------------------------------------------------------


def model_matrices(sections: Sequence[Section], navigation: Navigation) -> list[Matrix]:
    """Return one matrix per board and regime: the edit score of each method on each model."""
    groups: dict[str, list[Section]] = {}
    for section in sections:
        if not section.limited:
            groups.setdefault(_regime_key(section), []).append(section)
    found = [_model_matrix(members, navigation) for members in groups.values()]
    return [matrix for matrix in found if len(matrix.columns) > 1]


def _regime_key(section: Section) -> str:
    """Return a key that sections have in common if only their models differ."""
    if section.board is not None and section.table is not None:
        return f"{section.board.key} {section.table.name}"
    left_out = {*TASK_KEYS, *MODEL_KEYS, "cases"}
    return json.dumps({k: v for k, v in comparable(section.first).items() if k not in left_out}, sort_keys=True)


def _model_matrix(members: Sequence[Section], navigation: Navigation) -> Matrix:
    first = members[0]
    shared = [task for task in first.tasks() if all(task in section.entries for section in members)]
    methods = sorted({method for section in members for method in section.methods})
    titles = [section.model.name for section in members]
    cells = {
        method: [
            _cell(_on_tasks(section, method, shared), navigation.path(section.key), f"{len(shared)} tasks",
                  lambda s=section, m=method: _section_command(s, [m], shared))  # type: ignore[misc]
            for section in members
        ]
        for method in methods
    }  # fmt: skip
    gaps = [
        Gap(title, missing, _section_command(section, missing, shared))
        for n, (title, section) in enumerate(zip(titles, members, strict=True))
        if (missing := [method for method in methods if cells[method][n].value is None])
    ]
    if first.board is not None and first.table is not None:
        for model in first.board.model_names:
            if model not in titles:
                titles.append(model)
                command = board_command(first.board, first.table, model, methods)
                for method in methods:
                    one = board_command(first.board, first.table, model, [method])
                    cells[method] = [*cells[method], MatrixCell(None, "", one)]
                gaps.append(Gap(model, methods, command))
    names = ", ".join(first.task_card(task).title for task in shared)
    board = f"{first.board.label}, " if first.board else "no board, "
    title = f"{board}{navigation.section(first.key).regime}"
    return Matrix(title, f"Edit score over the tasks that all models have: {names}.", titles, _rows(cells), gaps)


def _on_tasks(section: Section, method: str, tasks: Sequence[TaskKey]) -> float | None:
    entries = [members[method] for task in tasks if method in (members := section.entries[task])]
    return value_of(entries) if entries and len(entries) == len(tasks) else None


def _section_command(section: Section, methods: Sequence[str], tasks: Iterable[TaskKey]) -> str:
    if section.board is not None and section.table is not None:
        return board_command(section.board, section.table, section.model.name, methods)
    return result_command(section.first, [task[0] for task in tasks], methods)


def _cell(value: float | None, page: str, note: str, command: Callable[[], str]) -> MatrixCell:
    return MatrixCell(value, page, note) if value is not None else MatrixCell(None, "", command())


def _rows(cells: Mapping[str, Sequence[MatrixCell]]) -> list[tuple[str, Sequence[MatrixCell]]]:
    """Order methods by their first numbers, the best first."""

    def key(item: tuple[str, Sequence[MatrixCell]]) -> tuple[list[float], str]:
        return [1.0 if cell.value is None else -cell.value for cell in item[1]], item[0]

    return sorted(cells.items(), key=key)


# --- sequential edits --------------------------------------------------------------------------------------------


def edit_matrices(sections: Sequence[Section], navigation: Navigation) -> list[Matrix]:
    """Return one matrix per model and task that has sequential edits: the edit score by their number."""
    groups: dict[tuple[str, str], list[Section]] = {}
    for section in sections:
        if section.first.protocol.regime != "batch" and not section.limited:
            name = navigation.section(section.key).group
            groups.setdefault((name, section.model.weight_hash), []).append(section)
    found = []
    for (group, _), members in groups.items():
        long = [section for section in members if section.first.protocol.regime == "sequential"]
        for task in dict.fromkeys(task for section in long for task in section.tasks()):
            found.append(_edit_matrix(group, members, task))
    return found


def _edit_matrix(group: str, members: Sequence[Section], task: TaskKey) -> Matrix:
    having = [section for section in members if task in section.entries]
    methods = sorted({method for section in having for method in section.entries[task]})
    card = having[0].task_card(task)
    cells: dict[str, list[MatrixCell]] = {method: [] for method in methods}
    gaps = []
    for edits in EDITS:
        for method in methods:
            one = _edits_command(members, task, edits, [method])
            cells[method].append(_after(having, task, method, edits) or MatrixCell(None, "", one))
        missing = [method for method in methods if cells[method][-1].value is None]
        if missing:
            gaps.append(Gap(_title(edits), missing, _edits_command(members, task, edits, missing)))
    note = "Edit score of all edits so far, measured after the last of them. One edit is the mean over single edits."
    return Matrix(f"{card.title}, {group}", note, [_title(edits) for edits in EDITS], _rows(cells), gaps)


def _title(edits: int) -> str:
    return "1 edit" if edits == 1 else f"{edits} edits"


def _after(having: Sequence[Section], task: TaskKey, method: str, edits: int) -> MatrixCell | None:
    """Return the edit score after a number of edits, of the run of this length or else at a checkpoint of a longer."""
    results = [section.entries[task][method] for section in having if method in section.entries[task]]
    results.sort(key=lambda entry: _length(entry.result))
    for entry in results:
        if _length(entry.result) == edits and (value := value_of([entry])) is not None:
            return MatrixCell(value, result_page(entry.result), f"{entry.result.records.cases} cases")
    for entry in results:
        for point in entry.result.curve or ():
            if point.edits == edits and edits > 1 and point.edit_score is not None:
                note = f"checkpoint of a sequence of {_length(entry.result)} edits"
                return MatrixCell(100 * point.edit_score.value, result_page(entry.result), note)
    return None


def _length(result: Result) -> int:
    return result.protocol.cases if result.protocol.regime == "sequential" else 1


def _edits_command(members: Sequence[Section], task: TaskKey, edits: int, methods: Sequence[str]) -> str:
    """Return the command that measures methods after a number of edits on a task."""
    board = members[0].board
    table = _table(board.tables, task[0], edits) if board else None
    if board is not None and table is not None:
        return board_command(board, table, members[0].model.name, methods)
    same = [section for section in members if _length(section.first) == edits] or members
    command = result_command(same[0].first, [task[0]], methods)
    if _length(same[0].first) == edits:
        return command
    return f"knbench run --model {members[0].model.name} --editors {','.join(methods)} --tasks {task[0]}" + (
        f" --sequential {edits}" if edits > 1 else ""
    )


def _table(tables: Sequence[BoardTable], task: str, edits: int) -> BoardTable | None:
    wanted = ("single", None) if edits == 1 else ("sequential", edits)
    return next((table for table in tables if (table.regime, table.edits) == wanted and task in table.tasks), None)
