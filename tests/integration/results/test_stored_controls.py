"""What the controls score in the committed results: real methods on SmolLM2-135M, 24 known cases a task."""

from __future__ import annotations

from pathlib import Path

import pytest
from knbench.benchmark.results.controls import LIMITS, LOCATE_THEN_EDIT, control_violations

from tools.findings.store import Setting, load_results

RESULTS = Path(__file__).resolve().parents[3] / "results"
SINGLE = Setting("smollm2-135m")


@pytest.fixture(scope="module")
def results():
    return load_results(RESULTS)


def test_controls_score_what_they_must_in_every_setting(results):
    assert SINGLE in results
    for setting, found in results.items():
        kinds = {m: found.runs(m)[0].result.editor.kind for m in found.methods}
        for kind in ("fact", "linguistic"):
            scores = {m: row.value for m, row in found.scored(kind).items()}
            assert control_violations(scores, kinds) == [], (setting, kind)


@pytest.mark.parametrize("kind", ["fact", "linguistic"])
def test_single_edits_have_all_controls_and_the_methods_that_they_are_compared_with(results, kind):
    rows = results[SINGLE].scored(kind)
    assert {*LIMITS, *LOCATE_THEN_EDIT} <= set(rows)
    assert rows["none"].value == 0
    assert rows["destroyed"].value < min(row.value for name, row in rows.items() if name not in LIMITS)


def test_constant_on_one_logit_passes_the_scores_of_the_literature_and_not_specificity(results):
    (group,) = [g for g in results[SINGLE].groups if g.task == "det-noun-agreement"]
    kept = group.values("logit-bias", "neighbourhood", "success").values()
    assert set(group.values("logit-bias", "reliability", "success").values()) == {1.0}
    assert sum(kept) / len(kept) > 0.9
    row = results[SINGLE].scored("linguistic")["logit-bias"]
    assert row.kept["specificity"] < 0.05
    assert row.kept["integrity"] > 0.9
