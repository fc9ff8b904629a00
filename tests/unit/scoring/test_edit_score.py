"""The edit score: its properties on made-up records, and a slow version in plain Python."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knbench.benchmark.core.records import CheckpointLine, Failure, Observation, ProbeRecord, Record
from knbench.benchmark.scoring.checkpoints import at_checkpoint
from knbench.benchmark.scoring.criteria import MEASURES
from knbench.benchmark.scoring.edit_score import (
    EDIT_SCORE,
    FAMILIES,
    MAX_BEFORE,
    PRESERVATION,
    case_values,
    closeness,
    score,
    score_methods,
)
from knbench.benchmark.scoring.edit_score_estimates import edit_score, scores_over_tasks

from tests.factories import failure, observation, probe, record

WRONG = observation(-9.0, -1.0, generated="y")
RIGHT = observation(-1.0, -9.0, generated="x")
KEPT = observation(-1.0, -9.0, generated="x", kl=0.0, js=0.0)
TARGETS = ("reliability", "paraphrase", "synonym", "symmetry", "portability")


def target(criterion: str, after: Observation | None = RIGHT, before: Observation = WRONG) -> ProbeRecord:
    return probe(criterion, after, before=before)


def kept(criterion: str, kl: float = 0.0, **more: Any) -> ProbeRecord:
    """A probe whose preference is as before, after an edit with a divergence."""
    fields = {"js": 0.0, **more}
    return probe(criterion, observation(-1.0, -9.0, kl=kl, **fields), before=KEPT, expect="unchanged")


def passages(kl: float, js: float = 0.0) -> ProbeRecord:
    return probe(
        "integrity",
        Observation(kl=kl, js=js),
        before=Observation(kl=0.0, js=0.0),
        kind="passages",
        prompt="passages-1",
        target="",
        rival="",
        expect="unchanged",
    )


def everything_kept() -> list[ProbeRecord]:
    return [*(kept(c) for c in ("neighbourhood", "unrelated", "specificity")), passages(0.0)]


def value(records: list[Record], kind: Any = "fact") -> float:
    found = edit_score(records, kind)
    assert found is not None
    return found.value


# --- what the score must satisfy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fact", "linguistic"])
def test_no_edit_scores_exactly_0(kind):
    records = [record(i, [*(target(c, WRONG) for c in TARGETS), *everything_kept()]) for i in range(3)]
    found = edit_score(records, kind)
    assert (found.value, found.gain, found.preservation) == (0, 0, 1)


@pytest.mark.parametrize("kind", ["fact", "linguistic"])
def test_ideal_edit_scores_exactly_1(kind):
    records = [record(i, [*(target(c) for c in TARGETS), *everything_kept()]) for i in range(3)]
    found = edit_score(records, kind)
    assert (found.value, found.gain, found.preservation) == (1, 1, 1)


def test_edit_that_answers_its_own_prompt_alone_scores_one_share_of_the_families():
    probes = [target(c, RIGHT if c == "reliability" else WRONG) for c in TARGETS]
    assert value([record(0, [*probes, *everything_kept()])]) == 1 / len(FAMILIES)


def test_destroyed_model_scores_0_although_half_of_its_preferences_are_right():
    """A model whose answers are in the right order by chance says none of them and predicts nothing as before."""
    by_chance = observation(-20.0, -21.0, generated="zzz", kl=12.0)
    records = [
        record(
            i,
            [
                *(target(c, by_chance if i % 2 else WRONG) for c in TARGETS),
                probe(
                    "neighbourhood", observation(-20.0, -21.0 + 2 * (i % 2), kl=12.0), before=KEPT, expect="unchanged"
                ),
                passages(12.0),
            ],
        )
        for i in range(10)
    ]
    assert value(records, "fact") == 0
    assert value(records, "linguistic") < 0.02
    success = [MEASURES["success"].of(p, p.before, p.after) for r in records for p in r.probes if p.rival]
    assert statistics.mean(success) == pytest.approx(0.5)


def test_failed_edit_counts_as_the_unedited_model():
    good = [*(target(c) for c in TARGETS), *everything_kept()]
    lost = [
        ProbeRecord(**{**vars(p), "after": None})
        for p in [*(target(c) for c in TARGETS), kept("neighbourhood"), passages(3.0)]
    ]
    assert value([record(0, good)]) == 1
    found = edit_score([record(0, good), record(1, lost, failure("ValueError"))], "fact")
    assert found.gain == pytest.approx(0.5)
    assert found.preservation == 1
    assert edit_score([record(0, lost, failure("ValueError"))], "fact").value == 0


@pytest.mark.parametrize("type_name", ["FloatingPointError", "NonFiniteEditError"])
def test_model_without_finite_probabilities_preserves_nothing(type_name):
    lost = [ProbeRecord(**{**vars(p), "after": None}) for p in [target("reliability"), kept("neighbourhood")]]
    found = edit_score([record(0, lost, failure(type_name, "probe"))], "fact")
    assert (found.gain, found.preservation, found.value) == (0, 0, 0)


def test_collapsed_checkpoint_preserves_nothing_and_others_are_scored_as_measured():
    case = record(0, [target("reliability"), kept("neighbourhood")])
    collapsed = Failure(phase="probe", type="FloatingPointError", message="m")
    line = CheckpointLine(edits=1, case_id="0", after=(None, None), failure=collapsed)
    assert edit_score([at_checkpoint(case, line)], "fact").preservation == 0
    line = CheckpointLine(edits=1, case_id="0", after=(RIGHT, observation(-1.0, -9.0, kl=math.log(2))), failure=None)
    assert edit_score([at_checkpoint(case, line)], "fact").value == pytest.approx(0.5)


def test_criterion_without_headroom_is_left_out_and_named():
    records = [
        record(
            i,
            [
                target("reliability"),
                target("portability", WRONG, before=RIGHT if i < 19 else WRONG),
                kept("neighbourhood"),
            ],
        )
        for i in range(20)
    ]
    found = edit_score(records, "fact")
    assert found.without_headroom == ("portability",)
    assert found.families == {"direct": 1.0}
    below = [*records[:17], *records[19:]]  # 17 of 18 are known
    assert MAX_BEFORE < 17 / 18
    assert edit_score(below, "fact").without_headroom == ("portability",)
    half = edit_score([*records[:9], *([records[19]] * 1)], "fact")  # 9 of 10 are not more than MAX_BEFORE
    assert half.without_headroom == ()
    assert half.families["consequence"] == 0


def test_keeping_one_thing_does_not_pay_for_destroying_another():
    probes = [target("reliability"), kept("neighbourhood", 0.0), kept("specificity", 100.0)]
    assert value([record(0, probes)]) < 1e-20


def test_changed_preference_is_not_preserved_however_small_the_divergence():
    flipped = probe("neighbourhood", observation(-5.0, -4.9, kl=1e-6), before=KEPT, expect="unchanged")
    assert closeness(flipped, flipped.before, flipped.after) == 0
    alone = probe("neighbourhood", observation(-5.0, -4.9, kl=0.1), before=KEPT, expect="unchanged", rival="")
    assert closeness(alone, alone.before, alone.after) == math.exp(-0.1)
    begins = probe(
        "neighbourhood", observation(-5.0, -4.9, kl=0.1), before=KEPT, expect="unchanged", target="x", rival="x y"
    )
    assert closeness(begins, begins.before, begins.after) == math.exp(-0.1)


def test_sentence_pairs_are_kept_if_the_preference_is():
    pair = {"kind": "minimal_pair", "prompt": "", "expect": "unchanged"}
    same = probe("neighbourhood", observation(-1.0, -2.0), before=observation(-1.0, -9.0), **pair)
    assert closeness(same, same.before, same.after) == 1
    other = probe("neighbourhood", observation(-2.0, -1.0), before=observation(-1.0, -9.0), **pair)
    assert closeness(other, other.before, other.after) == 0


def test_jensen_shannon_closeness_is_1_minus_its_share_of_the_maximum():
    half = kept("neighbourhood", 5.0, js=math.log(2) / 2)
    assert closeness(half, half.before, half.after, "js") == pytest.approx(0.5)


def test_score_is_undefined_without_a_target_or_a_preservation_criterion():
    assert edit_score([record(0, [target("reliability")])], "fact") is None
    assert edit_score([record(0, [kept("neighbourhood")])], "fact") is None
    assert edit_score([], "fact") is None


def test_case_that_was_not_measured_is_left_out():
    blank = ProbeRecord(**{**vars(target("reliability")), "before": None, "after": None})
    good = [target("reliability"), kept("neighbourhood")]
    found = edit_score([record(0, good), record(1, [blank], failure("ValueError", "tokenise"))], "fact")
    assert (found.value, found.cases) == (1, 1)


# --- against a slow version --------------------------------------------------------------------------------------


def slow_score(records: list[Record], kind: str) -> float | None:
    """Return the edit score, computed with loops and without numpy."""
    measure = MEASURES["generated" if kind == "fact" else "success"]
    gains = []
    for criteria in FAMILIES.values():
        of_family = []
        for criterion in criteria:
            a, b = [], []
            for r in records:
                found = [p for p in r.probes if p.criterion == criterion]
                if found:
                    b.append(statistics.mean(measure.of(p, p.before, p.before) for p in found))
                    a.append(statistics.mean(measure.of(p, p.before, p.after) for p in found))
            if a and statistics.mean(b) <= 0.9:
                of_family.append(max(0, (statistics.mean(a) - statistics.mean(b)) / (1 - statistics.mean(b))))
        if of_family:
            gains.append(statistics.mean(of_family))
    parts = []
    for criterion in PRESERVATION:
        per_case = []
        for r in records:
            values = []
            for p in r.probes:
                if p.criterion == criterion:
                    same = p.kind == "passages" or (
                        (p.before.target.logprob > p.before.rival.logprob)
                        == (p.after.target.logprob > p.after.rival.logprob)
                    )
                    values.append(math.exp(-p.after.kl) * same * slow_unshifted(p, r))
            if values:
                per_case.append(statistics.mean(values))
        if per_case:
            parts.append(statistics.mean(per_case))
    if not gains or not parts:
        return None
    return statistics.mean(gains) * math.prod(parts) ** (1 / len(parts))


def slow_unshifted(p: ProbeRecord, r: Record) -> float:
    if p.criterion != "specificity":
        return 1.0
    odds = [
        [o.target.logprob - o.rival.logprob for o in (q.before, q.after)]
        for q in [p, *(q for q in r.probes if q.criterion == "reliability")]
    ]
    own, edited = abs(odds[0][1] - odds[0][0]), [after - before for before, after in odds[1:]]
    return max(0.0, 1 - own / max(1.0, statistics.mean(edited) if edited else 0.0))


LOGPROBS = st.floats(-30, -0.01)
WORDS = st.sampled_from(["x", "y", "x and more", "z"])


@st.composite
def observations(draw: Any, *, kept: bool) -> Observation:
    kl = draw(st.floats(0, 5)) if kept else None
    return observation(draw(LOGPROBS), draw(LOGPROBS), generated=draw(WORDS), kl=kl)


@st.composite
def cases(draw: Any) -> list[Record]:
    found = []
    for index in range(draw(st.integers(1, 5))):
        probes = [
            probe(c, draw(observations(kept=False)), before=draw(observations(kept=False)))
            for c in draw(st.lists(st.sampled_from(TARGETS), max_size=6))
        ]
        probes += [
            probe(c, draw(observations(kept=True)), before=draw(observations(kept=True)), expect="unchanged")
            for c in draw(st.lists(st.sampled_from(PRESERVATION[:3]), max_size=4))
        ]
        if draw(st.booleans()):
            probes.append(passages(draw(st.floats(0, 5))))
        if probes:
            found.append(record(index, probes))
    return found


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(["fact", "linguistic"]))
def test_score_equals_the_slow_version_and_stays_between_0_and_1(records, kind):
    found, slow = edit_score(records, kind), slow_score(records, kind)
    assert (found is None) == (slow is None)
    if found is not None:
        assert found.value == pytest.approx(slow, abs=1e-12)
        assert 0 <= found.value <= 1
        if found.low is not None:
            assert 0 <= found.low <= found.high <= 1


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_score_is_monotone(records, data):
    """An answer that becomes right, or a divergence that becomes smaller, never lowers the score.

    The log-odds of the answer do not fall: the edit would shift its own prompt less, and other cues more by comparison.
    """
    before = edit_score(records, "fact")
    if before is None:
        return
    which = data.draw(st.integers(0, len(records) - 1))
    number = data.draw(st.integers(0, len(records[which].probes) - 1))
    old = records[which].probes[number]
    if old.criterion in TARGETS:
        odds = old.after.target.logprob - old.after.rival.logprob
        after = observation(-1.0, min(-9.0, -1.0 - odds), generated="x")
    elif old.kind == "passages":
        after = Observation(kl=old.after.kl / 2, js=0.0)
    else:
        same = observation(old.before.target.logprob, old.before.rival.logprob, kl=old.after.kl / 2)
        after = same
    probes = list(records[which].probes)
    probes[number] = ProbeRecord(**{**vars(old), "after": after})
    better = [*records[:which], record(which, probes), *records[which + 1 :]]
    assert edit_score(better, "fact").value >= before.value - 1e-12


def test_case_whose_values_equal_the_means_leaves_the_score_unchanged():
    """Two halves of right answers, and a case with one right and one wrong probe."""
    records = [
        record(0, [target("reliability"), kept("neighbourhood", 0.2)]),
        record(1, [target("reliability", WRONG), kept("neighbourhood", 0.2)]),
    ]
    mean = record(2, [target("reliability"), target("reliability", WRONG), kept("neighbourhood", 0.2)])
    assert value([*records, mean]) == pytest.approx(value(records))


# --- several tasks and methods -----------------------------------------------------------------------------------


def values_of(answers: list[bool], kind: Any, kl: float = 0.0) -> Any:
    records = [
        record(i, [target("reliability", RIGHT if right else WRONG), kept("neighbourhood", kl)])
        for i, right in enumerate(answers)
    ]
    return case_values(records, kind)


def test_tasks_and_kinds_have_equal_weights():
    tasks = [
        {"a": values_of([True] * 4, "fact")},
        {"a": values_of([False] * 20, "fact")},
        {"a": values_of([True, False, False, False], "linguistic")},
    ]
    found = scores_over_tasks(tasks)["a"]
    assert float(found.observed.value) == pytest.approx((0.5 + 0.25) / 2)
    assert (found.cases, found.tasks) == (28, 3)
    assert float(scores_over_tasks(tasks[:2])["a"].observed.value) == pytest.approx(0.5)


def test_methods_share_each_draw():
    task = {name: values_of([True, False, True, False, True, True], "fact") for name in "ab"}
    found = scores_over_tasks([task])
    assert np.array_equal(found["a"].drawn.value, found["b"].drawn.value)
    assert np.ptp(found["a"].drawn.value) > 0


def test_methods_are_compared_on_the_cases_that_both_have():
    task = {"a": values_of([True, True, False], "fact"), "b": values_of([True, True], "fact")}
    found = scores_over_tasks([task])
    assert float(found["a"].observed.value) == float(found["b"].observed.value) == 1
    assert found["a"].cases == 2


def test_interval_covers_the_value_about_as_often_as_it_says():
    """The percentile interval of 20 binary cases with a known mean covers it in 85 to 99 of 100 samples."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        records = [
            record(i, [target("reliability", RIGHT if rng.random() < 0.6 else WRONG), kept("neighbourhood", 0.5)])
            for i in range(20)
        ]
        found = edit_score(records, "fact")
        hits += found.low <= 0.6 * math.exp(-0.5) <= found.high
    assert 85 <= hits <= 99


def test_resamples_equal_scores_of_repeated_records():
    """A weight of 2 counts a case twice."""
    records = [record(i, [target("reliability", RIGHT if i else WRONG), kept("neighbourhood", i)]) for i in range(3)]
    values = case_values(records, "fact")
    weights = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    found = score(values, weights)
    for row, chosen in zip(range(2), ([0, 0, 2], [1, 1, 1]), strict=True):
        again = score(case_values([records[i] for i in chosen], "fact"))
        assert found.value[row] == pytest.approx(float(again.value))


@settings(max_examples=60, deadline=None)
@given(st.lists(cases(), min_size=1, max_size=5), st.integers(0, 99))
def test_methods_scored_together_equal_methods_scored_alone(methods, seed):
    number = min(len(records) for records in methods) or 1
    values = [case_values(records[:number], "fact") for records in methods]
    values = [found for found in values if len(found.case_ids) == number]  # cases that nobody measured are left out
    weights = np.random.default_rng(seed).multinomial(number, [1 / number] * number, size=(3, 2)).astype(float)
    for counts in (None, weights):
        for found, together in zip(values, score_methods(values, counts), strict=True):
            alone = score(found, counts)
            assert (alone is None) == (together is None)
            if alone is not None:
                for one, other in [
                    (alone.value, together.value),
                    *((alone.families[name], together.families[name]) for name in alone.families),
                    *((alone.kept[name], together.kept[name]) for name in alone.kept),
                ]:
                    assert one.shape == other.shape == (() if counts is None else (3, 2))
                    assert one == pytest.approx(other, abs=1e-12)


def test_definition_names_known_criteria_and_measures():
    from knbench.benchmark.scoring.criteria import CRITERIA

    assert {c for criteria in EDIT_SCORE.families.values() for c in criteria} | set(PRESERVATION) <= set(CRITERIA)
    assert set(EDIT_SCORE.headline.values()) <= set(MEASURES)


# --- specificity ---------------------------------------------------------------------------------------------------


def shifted(case_shift: float, probe_shift: float, *, margin: float = 9.0, kl: float = 0.0) -> Record:
    """An edit that raises its prompt's log-odds by one shift, and changes those of a specificity probe by another."""
    before = observation(-10.0, -1.0, generated="y")
    after = observation(-10.0 + case_shift, -1.0, generated="y")
    right = observation(-1.0, -1.0 - margin)
    moved = observation(-1.0, -1.0 - margin + probe_shift, kl=kl)
    return record(
        0,
        [
            probe("reliability", after, before=before),
            probe("specificity", moved, before=right, expect="unchanged"),
            passages(0.0),
        ],
    )


@pytest.mark.parametrize(
    ("case_shift", "probe_shift", "kept"),
    [
        (10.0, 0.0, 1.0),
        (10.0, 2.5, 0.75),
        (10.0, -2.5, 0.75),  # towards the right form: the odds changed, too
        (8.0, 8.0, 0.0),  # a constant, although the right form is still preferred
        (4.0, 8.0, 0.0),
        (0.0, 0.5, 0.5),  # an edit without effect is measured by a shift of 1 nat
        (10.0, 9.5, 0.0),  # the wrong form is preferred
    ],
)
def test_specificity_is_the_share_of_the_shift_that_stays_at_the_cue(case_shift, probe_shift, kept):
    values = case_values([shifted(case_shift, probe_shift)], "linguistic")
    assert values.kept["specificity"][0] == pytest.approx(kept)
    damped = case_values([shifted(case_shift, probe_shift, kl=1.0)], "linguistic")
    assert damped.kept["specificity"][0] == pytest.approx(kept * math.exp(-1))


def test_constant_on_one_form_scores_0_and_by_preference_alone_it_does_not():
    constant = [shifted(9.5, 8.9)]
    assert edit_score(constant, "linguistic").value < 0.3
    by_preference = score(case_values(constant, "linguistic", replace(EDIT_SCORE, shift=False)))
    assert float(by_preference.value) == pytest.approx(1)
    assert edit_score([shifted(9.5, 0.0)], "linguistic").value == pytest.approx(1)


def test_other_criteria_do_not_read_the_shift():
    probes = [
        ProbeRecord(**{**vars(p), "criterion": "neighbourhood" if p.criterion == "specificity" else p.criterion})
        for p in shifted(8.0, 8.0).probes
    ]
    assert case_values([record(0, probes)], "linguistic").kept["neighbourhood"][0] == 1
