"""Runs by the definition of a board: its settings, the refusal of options that contradict it, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..core import registry
from ..core.errors import KnbenchError
from ..core.printable import printable
from ..models.catalogue import DEFAULT_MODEL, model_label
from ..results.board_places import asked, places_of
from ..results.boards import Board, BoardTable, find_board
from ..results.runs import Run, find_runs
from ..scoring.summary import in_order
from .options import GIVEN, names_of

BOARD_OPTION = click.option(
    "--board",
    metavar="NAME",
    help="Run as a board demands: its model, tasks, cases and protocol (see: knbench list boards). --batch-edits or "
    "--sequential selects the table of that regime. [default table: single edits]",
)
_ELSEWHERE = ("include_path", "data", "revision", "checkpoints")
"""Parameters that change a run's questions in a way that no board allows."""


def run_on_board(context: click.Context, name: str) -> None:
    """Call the function of the command with the parameters of a board, and print which results do not belong to it.

    Args:
        context: the context of the command, with the parameters that the user gave.
        name: name of the board.

    Raises:
        KnbenchError: the board does not exist, or an option contradicts it.
    """
    board = find_board(name)
    table = _table(board, context.params)
    changed = board_parameters(context, board, table)
    run: Any = context.command.callback
    run(**{**context.params, **changed, "board": None})
    for line in _elsewhere(board, table, find_runs([changed["output"]])):
        click.echo(f"knbench: {printable(line)}", err=True)


def board_parameters(context: click.Context, board: Board, table: BoardTable) -> dict[str, Any]:
    """Return the parameters of ``knbench run`` that a board decides.

    Raises:
        KnbenchError: an option contradicts the board, or a task is installed in another version.
    """
    params = context.params
    settings = board.settings(table)
    fixed = {
        "split": board.split,
        "subset": table.subset,
        "limit": table.limit,
        "known_only": board.known_only,
        "known_by": board.known_by,
        "seed": board.seed,
        "bos": board.bos,
        "dtype": board.dtype,
        "batch_edits": settings.batch_edits,
        "sequential": settings.sequential,
    }
    options = {option.name: option.opts[0] for option in context.command.params}
    for name in (*fixed, *_ELSEWHERE):
        given = context.get_parameter_source(name) in GIVEN
        if given and (name in _ELSEWHERE or params[name] != fixed[name]):
            raise KnbenchError(
                f"{options[name]} contradicts board {board.label}"
                + ("" if name in _ELSEWHERE else f", which has {_words(fixed[name])}")
                + "; omit it"
            )
    model = _model(context, board)
    label = f".{model_label(model).replace('/', '--')}" if board.any_model or len(board.model_names) > 1 else ""
    output = params["output"] or Path("runs") / f"{board.key}{label}.{table.name}"
    return {**fixed, "model": model, "tasks": _tasks(board, table, params["tasks"]), "output": output}


def _table(board: Board, params: Mapping[str, Any]) -> BoardTable:
    """Return the table that the regime options select.

    Raises:
        KnbenchError: the board has no table of the regime.
    """
    batch, sequential = params["batch_edits"], params["sequential"]
    if batch is None and sequential is None:
        return next((table for table in board.tables if table.regime == "single"), board.tables[0])
    wanted = ("batch", batch) if batch else ("sequential", sequential)
    for table in board.tables:
        if (table.regime, table.edits) == wanted:
            return table
    known = ", ".join(table.words for table in board.tables)
    option = "--batch-edits" if batch else "--sequential"
    raise KnbenchError(f"{option} {wanted[1]}: board {board.label} has {known}")


def _model(context: click.Context, board: Board) -> str:
    """Return the model that the user gave, or the first one of the board.

    Raises:
        KnbenchError: it is not a model of the board.
    """
    name: str = context.params["model"]
    if context.get_parameter_source("model") not in GIVEN:
        return DEFAULT_MODEL if board.any_model else board.model_names[0]
    if not board.any_model and name not in board.model_names:
        raise KnbenchError(f"--model {name}: board {board.label} has {', '.join(board.model_names)}; omit --model")
    return name


def _tasks(board: Board, table: BoardTable, text: str | None) -> str:
    """Return the tasks of a run, separated by commas.

    Raises:
        KnbenchError: a task is not on the board, or is installed in another version.
    """
    installed = registry.tasks()
    names = list(table.tasks)
    if text is not None:
        names = names_of(text, dict.fromkeys(table.tasks), f"task of table '{table.name}' of board {board.label}")
    for name in names:
        wanted = board.tasks[name]
        found = installed.get(name)
        if found is None or (found.version, found.content_hash()) != (wanted.version, wanted.content):
            here = f"version {found.version} with other content" if found else "not installed"
            raise KnbenchError(
                f"board {board.label} has version {wanted.version} of task '{name}', which is {here} here; use the "
                "newest version of the board, or the version of knbench that it was made for"
            )
    return ",".join(names)


def _elsewhere(board: Board, table: BoardTable, runs: list[Run]) -> list[str]:
    """Return one line for each result that does not belong to a table, with the reason."""
    lines = []
    for run in runs:
        places = places_of(run.result, asked(in_order(run.records())), {board.key: board})
        flaw = next((place.settings or place.questions for place in places if place.table is table), "another task")
        if flaw:
            lines.append(f"{run.result_path}: not on board {board.label}: {flaw}")
    return lines


def _words(value: Any) -> str:
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
