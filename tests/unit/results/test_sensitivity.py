"""The order of methods under variants of the edit score, against variants computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from knbench.benchmark.core.errors import KnbenchError
from knbench.benchmark.core.records import Observation, Record
from knbench.benchmark.results.comparison import TaskComparison
from knbench.benchmark.results.runs import Run
from knbench.benchmark.results.sensitivity import VARIANTS, orders

from tests.factories import observation, probe, record, result

WRONG = observation(-9.0, -1.0, generated="y")


def one_case(said: bool, preferred: bool, kl: float, integrity: float, *, js: float | None = 0.2) -> Record:
    """A fact that is said, or preferred, after the edited prompt and its paraphrase, and preferred for the synonym."""
    after = observation(-1.0 if preferred else -9.0, -5.0, generated="x" if said else "y")
    text = Observation(kl=integrity, js=js)
    return record(
        0,
        [
            probe("reliability", after, before=WRONG),
            probe("paraphrase", after, before=WRONG),
            probe("synonym", observation(-9.0, -5.0, generated="y"), before=WRONG),
            probe("neighbourhood", observation(-1.0, -5.0, kl=kl, js=js), before=observation(), expect="unchanged"),
            probe("integrity", text, kind="passages", target="", rival="", expect="unchanged"),
        ],
    )


def group(**methods: Record) -> TaskComparison:
    runs = {name: Run(Path(), result(editor=name)) for name in methods}
    return TaskComparison("capital", runs, {name: {"0": found} for name, found in methods.items()})


def scores(row: Any) -> dict[str, float]:
    return {name: pytest.approx(value) for name, value in row.scores.items()}


METHODS = {
    "says": one_case(said=True, preferred=True, kl=1.0, integrity=2.0),
    "prefers": one_case(said=False, preferred=True, kl=0.1, integrity=0.1),
    "nothing": one_case(said=False, preferred=False, kl=0.0, integrity=0.0),
}


def test_each_variant_changes_one_choice():
    found = {row.variant: row for row in orders([group(**METHODS)])}
    assert list(found) == list(VARIANTS)
    gain, kept = (1 + 1 / 2) / 2, math.exp(-1.5)
    assert scores(found["the edit score"]) == {"says": gain * kept, "prefers": 0, "nothing": 0}
    geometric = found["geometric mean over families"].scores
    assert geometric["says"] == pytest.approx((1 * 1 / 2) ** 0.5 * kept)
    js = found["1 - JS / ln 2 instead of exp(-KL)"].scores
    assert js["says"] == pytest.approx(gain * (1 - 0.2 / math.log(2)))
    preferred = found["success instead of generated for facts"].scores
    assert preferred["prefers"] == pytest.approx(gain * math.exp(-0.1))
    assert next(iter(preferred)) == "prefers"
    assert found["without integrity"].scores["says"] == pytest.approx(gain * math.exp(-1))
    assert found["equal weight per criterion"].scores["says"] == pytest.approx(2 / 3 * kept)


def test_correlations_are_with_the_edit_score():
    found = {row.variant: row for row in orders([group(**METHODS)])}
    assert (found["the edit score"].spearman, found["the edit score"].kendall) == pytest.approx((1, 1))
    by_success = found["success instead of generated for facts"]
    # Of three pairs, (says, prefers) is reversed, (says, nothing) agrees, and (prefers, nothing) is a tie of the score.
    assert by_success.kendall == pytest.approx((1 - 1) / math.sqrt(2 * 3))


def test_variant_that_the_records_cannot_answer_is_left_out():
    methods = {name: one_case(True, True, 0.1, 0.1, js=None) for name in ("a", "b", "c")}
    assert "1 - JS / ln 2 instead of exp(-KL)" not in {row.variant for row in orders([group(**methods)])}


def test_runs_without_an_edit_score_are_refused():
    with pytest.raises(KnbenchError, match="no editor has an edit score"):
        orders([group(a=record(0, [probe("reliability", WRONG, before=WRONG)]))])
