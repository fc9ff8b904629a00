"""Numbers as text."""

from __future__ import annotations

import doctest

import pytest
from knbench.benchmark.core.documents import DriftInfo, DriftPoint, DriftTask
from knbench.benchmark.scoring import formatting
from knbench.benchmark.scoring.formatting import format_difference, format_drift, format_quantity, format_value


def drift(metric, before, *differences, task="knbench_anaphor_gender"):
    points = tuple(
        DriftPoint(edits=n, difference=d, low=None if n == 1 else d - 0.5, high=None if n == 1 else d + 0.5,
                   interval="t", over=4)
        for n, d in enumerate(differences, start=1)
    )  # fmt: skip
    task = DriftTask(task=task, metric=metric, higher_is_better=False, samples=4, before=before, points=points)
    return DriftInfo(file="drift.jsonl", sha256="0" * 64, failed=0, tasks=(task,))


def test_examples():
    assert doctest.testmod(formatting).failed == 0


def test_drift_is_the_last_point_with_its_interval():
    (row,) = format_drift(drift("acc", 0.75, 0.0, -0.25))
    assert (row.name, row.title) == ("knbench_anaphor_gender", "anaphor gender")
    assert (row.before, row.after, row.difference) == ("0.750", "0.500", "-0.250 [-0.750 to +0.250]")


def test_drift_of_nll_is_shown_as_perplexity():
    (row,) = format_drift(drift("nll", 0.0, 1.0, task="perplexity"))
    assert (row.title, row.before, row.after, row.difference) == ("perplexity", "1.000", "2.718", "+1.000")
    (row,) = format_drift(drift("nll", 0.0, 2000.0))
    assert row.after == "5.2e+21"


def test_drift_that_was_not_measured_has_no_rows():
    assert format_drift(None) == []
    assert format_drift(drift("nll", 1.0)) == []


@pytest.mark.parametrize("value", [0.0, -0.0, -1e-9, 0.0004, -0.0004])
def test_a_number_that_is_printed_as_zero_has_no_minus_sign(value):
    assert (format_value(value, share=True), format_value(value, share=False)) == ("0.0", "0.000")
    assert (format_difference(value, share=True), format_difference(value, share=False)) == ("+0.0", "+0.000")
    assert format_quantity(value) == "0.000"


def test_a_small_negative_number_keeps_its_sign():
    assert (format_value(-0.0005001, share=False), format_difference(-0.0006, share=True)) == ("−0.001", "−0.1")
    assert (format_quantity(9999.9999), format_quantity(-123456.0)) == ("1e+04", "-1.2e+05")
