from __future__ import annotations

import pytest
from knbench.benchmark.scoring.summary import result_from, summarise


def observed(target, rival, **more):
    side = {"token_logprobs": [-1.0], "ranks": [0], "argmax": [1]}
    return {
        "target": {"logprob": target, **side}, "rival": {"logprob": rival, **side},
        "top_id": 1, "generated": "x", **more,
    }  # fmt: skip


def probe(criterion, after, expect="new", before=None, kind="completion"):
    base = {"criterion": criterion, "kind": kind, "target": "x", "rival": "y", "aliases": [], "expect": expect}
    return {**base, "prompt": "p", "before": before or observed(-9.0, -1.0), "after": after}


def record(index, probes, failure=None):
    timings = {"edit_seconds": 1.0 + index, "probe_seconds": None, "peak_memory_mb": 10.0}
    return {"index": index, "case_id": str(index), "probes": probes, "failure": failure, "timings": timings}


def row(rows, criterion, measure="success"):
    return next(r for r in rows if (r["criterion"], r["measure"]) == (criterion, measure))


YES, NO = observed(-1.0, -2.0), observed(-2.0, -1.0)


def test_probes_are_averaged_within_their_case_first():
    many = record(0, [probe("paraphrase", YES) for _ in range(9)])
    one = record(1, [probe("paraphrase", NO)])
    found = row(summarise([many, one]), "paraphrase")
    assert (found["value"], found["cases"], found["probes"]) == (0.5, 2, 10)


def test_a_failed_edit_counts_as_no_edit_and_not_as_nothing():
    unedited = observed(-9.0, -1.0)
    kept = observed(-1.0, -9.0)
    failed = [probe("reliability", None, before=unedited), probe("neighbourhood", None, "unchanged", before=kept)]
    done = [probe("reliability", YES), probe("neighbourhood", NO, "unchanged", before=kept)]
    rows = summarise([record(0, failed, {"type": "ValueError"}), record(1, done)])
    assert row(rows, "reliability")["value"] == 0.5
    assert row(rows, "neighbourhood")["value"] == 0.5
    assert row(rows, "neighbourhood", "kl")["value"] == 0.0


def test_score_is_the_harmonic_mean_and_the_extended_one_adds_symmetry():
    def case(i, symmetry):
        probes = [probe("reliability", YES), probe("paraphrase", YES), probe("neighbourhood", YES, "unchanged")]
        return record(i, [*probes, probe("symmetry", symmetry)])

    rows = summarise([case(0, YES), case(1, NO)])
    assert row(rows, "score")["value"] == 1.0
    assert row(rows, "extended_score")["value"] == pytest.approx(4 / (3 + 1 / 0.5))
    assert row(rows, "extended_score")["parts"] == ["reliability", "paraphrase", "neighbourhood", "symmetry"]


def test_no_score_by_a_measure_that_a_part_does_not_have():
    probes = [probe("reliability", YES), probe("paraphrase", YES), probe("neighbourhood", YES, "unchanged")]
    probes.append(probe("symmetry", YES, kind="minimal_pair"))
    rows = summarise([record(0, probes)])
    assert row(rows, "score", "exact")["value"] == 1.0
    assert not [r for r in rows if (r["criterion"], r["measure"]) == ("extended_score", "exact")]


def test_the_order_of_the_records_does_not_matter():
    records = [record(i, [probe("reliability", YES if i % 3 else NO)]) for i in range(9)]
    assert result_from({}, records, "0") == result_from({}, records[::-1], "0")


def test_failures_are_counted_by_type():
    records = [record(i, [probe("reliability", None)], {"type": t}) for i, t in enumerate(["A", "B", "A"])]
    assert result_from({}, records, "0")["records"]["failures"] == {"A": 2, "B": 1}
