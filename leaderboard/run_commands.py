"""Commands that repeat a result, or that fill an empty cell of a table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..benchmark.core.documents import Result, RunProtocol
from ..benchmark.results.boards import Board, BoardTable


def board_command(board: Board, table: BoardTable, model: str, editors: Sequence[str]) -> str:
    """Return the command that runs methods for a table of a board."""
    words = ["knbench", "run", "--board", board.key]
    if board.any_model or len(board.model_names) > 1:
        words += ["--model", model]
    words += ["--editors", ",".join(editors)]
    if table.regime != "single":
        words += ["--batch-edits" if table.regime == "batch" else "--sequential", str(table.edits)]
    return shlex.join(words)


def result_command(result: Result, tasks: Sequence[str], editors: Sequence[str] = ()) -> str:
    """Return the command that runs the method of a result again with its protocol.

    Args:
        result: a result.
        tasks: names of the tasks.
        editors: other methods in place of that of the result.
    """
    words = ["knbench", "run", "--model", result.model.name]
    words += ["--editors", ",".join(editors or [result.editor.name]), "--tasks", ",".join(tasks)]
    return shlex.join([*words, *_flags(result)])


def _flags(result: Result) -> list[str]:
    """Return the flags of a protocol that differ from the defaults."""
    protocol: RunProtocol = result.protocol
    flags: list[str] = []
    if protocol.regime == "batch":
        flags += ["--batch-edits", str(protocol.batch_edits)]
    if protocol.regime == "sequential":
        flags += ["--sequential", str(protocol.cases)]
    if protocol.split != "test":
        flags += ["--split", protocol.split]
    if protocol.subset:
        flags += ["--subset", protocol.subset]
    if protocol.limit:
        flags += ["--limit", str(protocol.limit)]
    if protocol.known_only:
        flags += ["--known-only"]
    if protocol.known_only and protocol.known_by not in (None, "success"):
        flags += ["--known-by", str(protocol.known_by)]
    if result.seed:
        flags += ["--seed", str(result.seed)]
    if result.model.dtype != "float32":
        flags += ["--dtype", result.model.dtype]
    if protocol.bos != "auto":
        flags += ["--bos", protocol.bos]
    if protocol.chat_template:
        flags += ["--apply-chat-template"]
    return flags
