"""What the results of a method lack for a board."""

from __future__ import annotations

import msgspec
import pytest
from knbench.benchmark.results import board_progress

from tests import factories


class Stored:
    """A run in memory."""

    def __init__(self, editor="rome", task="capital", cases=2, version="0", **about):
        self.lines = [
            factories.record(i, [factories.probe("reliability", factories.observation())]) for i in range(cases)
        ]
        self.result = factories.result(self.lines, editor=editor, task=task, **about)
        self.result = msgspec.structs.replace(self.result, benchmark_version=version)

    def records(self):
        return self.lines


@pytest.fixture(scope="module")
def boards():
    lines = Stored().lines
    towns = factories.board({"capital": lines, "religion": lines})
    other = factories.board({"capital": Stored(cases=1).lines}, name="other")
    return {board.key: board for board in (towns, other)}


@pytest.mark.parametrize(
    ("runs", "lines"),
    [
        ([Stored(), Stored(task="religion")], ["rome on m, towns v1, single: complete"]),
        ([Stored()], ["rome on m, towns v1, single: 1 of 2 tasks; missing: religion"]),
        (
            [Stored(), Stored(task="religion", new_tokens=7)],
            ["rome on m, towns v1, single: 1 of 2 tasks; religion: new tokens: 7, the board has 6"],
        ),
        (
            [Stored(cases=3), Stored("ft", cases=1)],
            [
                "ft on m, other v1, single: complete",
                "rome on m, other v1, single: 0 of 1 tasks; capital: case '1' is not on the board",
                "rome on m, towns v1, single: 0 of 2 tasks; missing: religion; capital: case '2' is not on the board",
            ],
        ),
        (
            [Stored(), Stored(task="religion", version="0.1")],
            ["rome on m, towns v1, single: 1 of 2 tasks; missing: religion"],
        ),
        ([Stored(task="of-no-board")], []),
    ],
)
def test_lines_name_what_is_complete_and_what_is_missing(boards, runs, lines):
    assert board_progress.board_progress(runs, boards) == lines
