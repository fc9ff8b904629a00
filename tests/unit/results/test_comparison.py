"""Editors side by side, on records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from knbench.benchmark.results.comparison import TaskComparison, compare_two, overall, ranking
from knbench.benchmark.results.runs import Run
from knbench.benchmark.scoring.intervals import mean_over_tasks

from tests.factories import probe, record, result
from tests.unit.scoring.test_summary import NO, YES


def group(task, kind, **answers):
    """One task: of each editor, each case's answers by criterion (y for yes, n for no)."""
    runs = {name: Run(Path(), result(task=task, kind=kind, editor=name)) for name in answers}
    records = {
        name: {
            str(i): record(i, [probe(criterion, YES if answer == "y" else NO) for criterion, answer in case.items()])
            for i, case in enumerate(cases)
        }
        for name, cases in answers.items()
    }
    return TaskComparison(task, runs, records)


def only(text, criterion="reliability"):
    return [{criterion: answer} for answer in text]


@pytest.mark.parametrize(("kind", "clusters"), [("fact", False), ("linguistic", True)])
def test_facts_are_sampled_by_case_and_phenomena_by_paradigm(kind, clusters):
    groups = [
        group("one", kind, a=only("yyyn")),
        group("two", kind, a=only("ynnnnn")),
        group("three", kind, a=only("yy")),
    ]
    (row,) = overall(groups, "success")
    tasks = [[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0]]
    wanted = mean_over_tasks(tasks, share=True, clusters=clusters)
    assert (row.value, row.low, row.high) == (wanted.value, wanted.low, wanted.high)
    assert row.value == pytest.approx((0.75 + 1 / 6 + 1) / 3)
    assert (row.tasks, row.cases) == (3, 12)


def test_an_editor_that_missed_a_task_is_not_among_the_means():
    groups = [group("one", "fact", a=only("yn"), b=only("yy")), group("two", "fact", a=only("nn"))]
    assert [row.editor for row in overall(groups, "success")] == ["a"]


def test_two_editors_on_the_cases_that_both_have():
    (row,) = compare_two([group("t", "fact", a=only("yyyy"), b=only("ynny"))], "a", "b", "success")
    assert (row.a, row.b, row.difference, row.cases) == (1.0, 0.5, 0.5, 4)
    assert (row.wins, row.losses, row.ties, row.only_a, row.only_b) == (2, 0, 2, 2, 0)
    assert row.p == row.p_adjusted == pytest.approx(0.5)  # two signs of four ways, both tails


def test_a_score_ranks_by_the_harmonic_mean_and_is_none_where_a_part_is_missing():
    def cases(neighbourhood):
        return [{"reliability": "y", "paraphrase": "y", "neighbourhood": answer} for answer in neighbourhood]

    found = ranking(group("t", "fact", a=cases("yyyy"), b=cases("yynn")), "score", "success")
    assert [(row.editor, row.value) for row in found] == [("a", 1.0), ("b", pytest.approx(3 / (1 + 1 + 2)))]
    assert ranking(group("t", "fact", a=cases("yy"), b=cases("yn")), "extended_score", "success") == []
    assert ranking(group("t", "fact", a=only("yy"), b=only("yn")), "score", "success") == []
