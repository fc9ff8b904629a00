from __future__ import annotations

import pytest
from knbench.benchmark.scoring.summary import result_from, summarise

from tests.factories import failure, manifest, observation, probe, record


def row(rows, criterion, measure="success"):
    return next(r for r in rows if (r.criterion, r.measure) == (criterion, measure))


YES, NO = observation(-1.0, -2.0), observation(-2.0, -1.0)


def test_probes_are_averaged_within_their_case_first():
    many = record(0, [probe("paraphrase", YES) for _ in range(9)])
    one = record(1, [probe("paraphrase", NO)])
    found = row(summarise([many, one]), "paraphrase")
    assert (found.value, found.cases, found.probes) == (0.5, 2, 10)


def test_a_failed_edit_counts_as_no_edit_and_not_as_nothing():
    unedited = observation(-9.0, -1.0)
    kept = observation(-1.0, -9.0)
    failed = [
        probe("reliability", None, before=unedited),
        probe("neighbourhood", None, expect="unchanged", before=kept),
    ]
    done = [probe("reliability", YES), probe("neighbourhood", NO, expect="unchanged", before=kept)]
    rows = summarise([record(0, failed, failure()), record(1, done)])
    assert row(rows, "reliability").value == 0.5
    assert row(rows, "neighbourhood").value == 0.5
    assert row(rows, "neighbourhood", "kl").value == 0.0


def test_score_is_the_harmonic_mean_and_the_extended_one_adds_symmetry():
    def case(i, symmetry):
        probes = [probe("reliability", YES), probe("paraphrase", YES), probe("neighbourhood", YES, expect="unchanged")]
        return record(i, [*probes, probe("symmetry", symmetry)])

    rows = summarise([case(0, YES), case(1, NO)])
    assert row(rows, "score").value == 1.0
    assert row(rows, "extended_score").value == pytest.approx(4 / (3 + 1 / 0.5))
    assert row(rows, "extended_score").parts == ("reliability", "paraphrase", "neighbourhood", "symmetry")


def test_no_score_by_a_measure_that_a_part_does_not_have():
    probes = [probe("reliability", YES), probe("paraphrase", YES), probe("neighbourhood", YES, expect="unchanged")]
    probes.append(probe("symmetry", YES, kind="minimal_pair"))
    rows = summarise([record(0, probes)])
    assert row(rows, "score", "exact").value == 1.0
    assert not [r for r in rows if (r.criterion, r.measure) == ("extended_score", "exact")]


def test_the_order_of_the_records_does_not_matter():
    records = [record(i, [probe("reliability", YES if i % 3 else NO)]) for i in range(9)]
    assert result_from(manifest(), records, "0") == result_from(manifest(), records[::-1], "0")


def test_failures_are_counted_by_type():
    records = [record(i, [probe("reliability", None)], failure(t)) for i, t in enumerate(["A", "B", "A"])]
    assert result_from(manifest(), records, "0").records.failures == {"A": 2, "B": 1}
