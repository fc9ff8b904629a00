"""Effects on words, and protocols, on examples worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from knbench.benchmark.core.records import Answer, CheckpointLine, Observation
from knbench.benchmark.scoring.checkpoints import at_checkpoint
from knbench.benchmark.scoring.criteria import CRITERIA, MEASURES
from knbench.benchmark.scoring.effects import MIN_CASES_PER_WORD, adjusted, effect, word_effects
from knbench.benchmark.scoring.protocols import PROTOCOLS
from knbench.benchmark.scoring.summary import COMPOSITES, case_table, result_from, summarise
from scipy import stats

from tests.factories import failure, manifest, observation, probe, record
from tests.unit.scoring.test_summary import NO, YES


def test_an_effect_by_hand():
    found = effect([0.1, 0.2, 0.4], [0.05, 0.1, 0.3])
    assert (found.cases, found.before, found.after) == (3, pytest.approx(0.7 / 3), pytest.approx(0.45 / 3))
    assert found.relative_change == pytest.approx((-0.5 - 0.5 - 0.25) / 3)
    assert found.p_paired == pytest.approx(stats.ttest_1samp([-0.05, -0.1, -0.1], 0).pvalue)
    assert found.p_unpaired == pytest.approx(stats.ttest_ind([0.05, 0.1, 0.3], [0.1, 0.2, 0.4]).pvalue)
    assert found.p_paired < found.p_unpaired  # of prompts that differ more than the edit does


def test_an_effect_on_one_case_or_without_any_change_has_no_test():
    assert effect([0.1], [0.2]).p_paired is None
    assert effect([0.1, 0.2], [0.1, 0.2]).p_paired is None
    with pytest.raises(ValueError, match="paired"):
        effect([0.1], [])


def test_correction_by_benjamini_and_hochberg():
    assert adjusted([0.01, None, 0.02, 0.5]) == pytest.approx([0.03, None, 0.03, 0.5])
    assert adjusted([None]) == [None]


def test_words_that_enough_cases_have_get_a_row_of_their_own():
    def case(i, word):
        asked = probe("reliability", YES)  # target from e^-9 to e^-1, rival from e^-1 to e^-2
        return record(i, [replace(asked, target=word)] * 2)

    rows = word_effects(
        [case(i, "often" if i < MIN_CASES_PER_WORD else f"rare{i}") for i in range(MIN_CASES_PER_WORD + 2)]
    )
    named = {(r.role, r.word): r for r in rows}
    assert set(named) == {("target", None), ("target", "often"), ("rival", None), ("rival", "y")}
    assert named["target", "often"].cases == MIN_CASES_PER_WORD  # two probes of a case count once
    assert named["rival", None].relative_change == pytest.approx(math.exp(-1) - 1)
    assert all(r.p_adjusted is None or r.p_adjusted >= r.p_paired for r in rows)


def test_the_relative_change_of_a_vanishing_probability_is_left_out():
    """That of exp(-744) to 1 is infinite, which JSON cannot hold."""
    cases = [
        record(i, [probe("reliability", observation(-0.5), before=observation(logprob))])
        for i, logprob in enumerate((-744.0, -1.0))
    ]
    rows = {row.role: row for row in word_effects(cases)}
    assert (rows["target"].cases, rows["rival"].cases) == (1, 2)
    assert rows["target"].relative_change == pytest.approx((math.exp(-0.5) - math.exp(-1)) / math.exp(-1))


def test_protocols_name_known_criteria_and_measures():
    for protocol in PROTOCOLS.values():
        for column in protocol.columns:
            assert column.criterion in {*CRITERIA, *COMPOSITES}
            assert column.measure in MEASURES
            assert column.formula


def test_four_protocols_on_one_two_token_case_differ():
    """The new answer's first token is second and its second certain: preferred, half accurate, not exact, not said."""
    half = Answer(logprob=-1.5, token_logprobs=(-1.4, -0.1), ranks=(1, 0), argmax=(5, 7))
    rival = Answer(logprob=-3.0, token_logprobs=(-3.0,), ranks=(4,), argmax=(5,))
    after = Observation(target_answer=half, rival_answer=rival, top_id=5, generated=" not so")
    asked = probe("reliability", after, target="Mexico City")
    rows = {(r.criterion, r.measure): r.value for r in summarise([record(0, [asked])])}
    shown = {
        p: rows[PROTOCOLS[p].columns[0].criterion, PROTOCOLS[p].columns[0].measure]
        for p in ("counterfact", "paper", "easyedit", "wild")
    }
    assert shown == {"counterfact": 1.0, "paper": 0.5, "easyedit": 0.5, "wild": 0.0}
    assert rows["reliability", "exact"] == 0.0


def test_a_collapsed_model_earns_nothing_for_being_as_before():
    kept = probe("neighbourhood", None, expect="unchanged", before=YES)
    line = CheckpointLine(edits=2, case_id="0", after=(None,), failure=failure(phase="probe"))
    rows = summarise([at_checkpoint(record(0, [kept]), line), record(1, [kept])])
    values = {r.measure: r.value for r in rows}
    assert (values["success"], values["exact"], values["kl"]) == (0.5, 0.5, 0.0)


def test_retention_compares_right_after_with_at_the_end():
    records = [record(i, [probe("reliability", YES)]) for i in range(2)]
    lines = [
        CheckpointLine(edits=edits, case_id=case_id, after=(after,), failure=None)
        for edits, case_id, after in ((1, "0", YES), (2, "0", NO), (2, "1", YES))
    ]
    found = result_from(manifest(cases=2, regime="sequential"), records, "0", checkpoints=(lines, "1"))

    def value(rows):
        return next(r.value for r in rows if r.measure == "success")

    assert [(p.edits, value(p.immediate), value(p.now)) for p in found.curve] == [(1, 1, 1), (2, 1, 0.5)]
    assert (value(found.immediate), value(found.summary)) == (1.0, 0.5)
    assert (found.checkpoints.lines, found.checkpoints.sha256) == (3, "1")


def test_every_measure_is_in_the_table_of_the_cases_that_it_applies_to():
    records = [record(0, [probe("reliability", YES)]), record(1, [probe("symmetry", YES, kind="minimal_pair")])]
    table = case_table(records, ["success", "exact"])
    assert table["reliability", "success"] == [[1.0], []]
    assert table["symmetry", "exact"] == [[], []]
