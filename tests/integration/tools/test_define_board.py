"""The tool that measures the definition of a board keeps its text, and notices a definition that was changed."""

from __future__ import annotations

from knbench.benchmark.core import registry
from knbench.benchmark.core.split import split_cases
from knbench.benchmark.results.boards import load_board

from tools.define_board import main

TEXT = """# A comment that stays.
name: towns
version: 1
title: Towns
purpose: For tests.
models: any
protocol: {split: test, known_only: false, known_by: success, seed: 0, bos: auto, dtype: float32, new_tokens: 6}
tables:
  - {regime: single, subset: full, tasks: [religion]}
  - {regime: batch, edits: 20, subset: lite, limit: 21, tasks: [religion]}
"""


def test_a_definition_is_measured_checked_and_measured_again(tmp_path, capsys):
    path = tmp_path / "towns-v1.yaml"
    path.write_text(TEXT)
    assert main([str(path)]) == 0
    measured = path.read_text()
    assert measured.startswith(TEXT + "measured:\n")
    board = load_board(path)
    task = registry.task("religion")
    single, batch = (board.questions_of(table, "any", "religion") for table in board.tables)
    assert (single.cases, batch.cases) == (len(split_cases("religion", task.cases, "test")), 20)
    assert main([str(path), "--check"]) == 0
    assert main([str(path)]) == 0
    assert path.read_text() == measured

    path.write_text(measured.replace(single.digest, "a" * 64))
    assert main([str(path), "--check"]) == 1
    assert "a measurement gives another definition" in capsys.readouterr().out
    path.write_text(TEXT.replace("religion", "religoin"))
    assert main([str(path)]) == 2
    assert "task 'religoin' is not installed" in capsys.readouterr().err
