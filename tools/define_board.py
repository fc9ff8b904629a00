"""Measures the definition of a board: ``python -m tools.define_board leaderboard/boards/knbench-lite-v2.yaml``.

The part ``measured`` of the file is replaced: the identity of models and tasks, and for each table, model and task the
cases and probes that a run selects. The text before it is kept. With ``--check``, the file stays as it is, and the
exit status tells whether a measurement gives the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from knbench.benchmark.core import registry
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.schema import Task
from knbench.benchmark.core.version import __version__
from knbench.benchmark.models.language_model import LanguageModel
from knbench.benchmark.models.loading import load_model
from knbench.benchmark.results.boards import ANY, Board, Questions, load_board
from knbench.benchmark.results.documents import release_series
from knbench.benchmark.running.board_questions import QuestionSelector

MARK = "\nmeasured:\n"
TOY = "toy-gpt2"
"""Model with which the cases are selected that do not depend on the model."""


def measured(board: Board, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return the measured part of a definition.

    Raises:
        KnbenchError: a task or model does not exist, or a model knows too few cases.
    """
    names = sorted({name for table in board.tables for name in table.tasks})
    chosen = {name: tasks[name] for name in names if name in tasks}
    missing = [name for name in names if name not in tasks]
    if missing:
        raise KnbenchError(f"task '{missing[0]}' is not installed")
    models, questions = [], []
    for name in board.model_names or (ANY,):
        lm = load_model(TOY if board.any_model else name, dtype=board.dtype, bos=board.bos)  # type: ignore[arg-type]
        if not board.any_model:
            models.append(identity(lm))
        selector = QuestionSelector(lm, board.settings(board.tables[0]))
        for table in board.tables:
            for task in table.tasks:
                print(f"{name}, {table.name}: {task}", file=sys.stderr, flush=True)
                found = selector.select(chosen[task], board.settings(table))
                questions.append({"table": table.name, "model": name, "task": task, **as_json(found)})
    return {
        "benchmark": release_series(__version__),
        "models": models,
        "tasks": [
            {"name": t.name, "version": t.version, "kind": t.kind, "content": t.content_hash()} for t in chosen.values()
        ],
        "questions": questions,
    }


def identity(lm: LanguageModel) -> dict[str, Any]:
    """Return the identity of a model."""
    return {
        "name": lm.name,
        "revision": lm.revision,
        "weights": lm.weight_hash(),
        "tokenizer": lm.tokenizer_hash,
        "config": lm.config_hash,
        "bos_prepended": lm.bos_id is not None,
    }


def as_json(questions: Questions) -> dict[str, Any]:
    """Return cases and probes as they are written to a definition."""
    values: dict[str, Any] = {"cases": questions.cases, "digest": questions.digest}
    if questions.margin is not None:
        values["margin"] = round(questions.margin, 4)
    return {**values, "ids": list(questions.ids)} if questions.ids else values


def with_measured(text: str, part: Mapping[str, Any]) -> str:
    """Return the text of a definition with another measured part."""
    written = text.partition(MARK)[0].rstrip("\n")
    dumped = yaml.safe_dump({"measured": dict(part)}, sort_keys=False, width=118, default_flow_style=None)
    return f"{written}\n{dumped}"


def main(arguments: list[str] | None = None) -> int:
    """Measure the definitions that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("definitions", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change no file; fail if a measurement differs")
    options = parser.parse_args(arguments)
    different = 0
    for path in options.definitions:
        try:
            board = load_board(path)
            old = path.read_text(encoding="utf-8")
            new = with_measured(old, measured(replace(board, benchmark=""), registry.tasks()))
        except KnbenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if not options.check:
            path.write_text(new, encoding="utf-8")
            load_board(path)
        elif new != old:
            different += 1
            print(f"{path}: a measurement gives another definition")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
