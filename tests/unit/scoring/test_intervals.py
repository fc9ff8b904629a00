"""Intervals, comparisons and ranks against hand-worked numbers, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knbench.benchmark.scoring.intervals import (
    NORMAL_FROM,
    Rank,
    bootstrap_interval,
    compare,
    harmonic_mean_over_cases,
    mean_over_cases,
    mean_over_tasks,
    rank_intervals,
    resampled_scores,
)
from scipy import stats

shares = st.lists(st.integers(0, 4).map(lambda k: k / 4), min_size=1, max_size=40)


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (12, 12), (7, 10), (1, 2)])
def test_shares_get_wilsons_interval(hits, n):
    estimate = mean_over_cases([1.0] * hits + [0.0] * (n - hits), share=True)
    reference = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (estimate.value, estimate.method) == (hits / n, "wilson")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_means_of_probes_get_wilsons_interval_for_the_cases_that_they_are_worth():
    # Variance 1/16 * 16/15 of a mean of .5: as much as a share over n p (1-p) / s^2 = 16 * .25 * 15 cases would vary.
    estimate = mean_over_cases([0.25, 0.75] * 8, share=True)
    worth = 16 * 0.25 / (1 / 15) * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 15)) ** 2
    z = stats.norm.ppf(0.975)
    half = z / (1 + z * z / worth) * np.sqrt(0.25 / worth + z * z / (4 * worth * worth))
    assert (estimate.low, estimate.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert estimate.method == "wilson-effective"


def test_quantities_without_bounds_get_the_bootstrap_and_the_same_one_each_time():
    values = list(np.random.default_rng(1).normal(size=40))
    first, again = mean_over_cases(values, share=False), mean_over_cases(values, share=False)
    assert first == again
    assert first.method == "bca"
    assert (first.low, first.high) == pytest.approx(
        stats.norm.interval(0.95, np.mean(values), stats.sem(values)), abs=0.06
    )


@pytest.mark.parametrize("n", [5, NORMAL_FROM])
def test_few_and_very_many_get_students_t(n):
    values = list(np.random.default_rng(1).exponential(size=n))
    estimate = mean_over_cases(values, share=False)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high, estimate.method) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]), "t")


def test_one_case_has_no_interval():
    assert mean_over_cases([0.5], share=True).low is None


def test_equal_values_do_not_claim_certainty():
    share = mean_over_cases([0.5] * 8, share=True)
    assert share.low < 0.5 < share.high
    assert mean_over_cases([3.0] * 8, share=False).low is None


def test_no_case_is_no_number():
    with pytest.raises(ValueError, match="at least one"):
        mean_over_cases([], share=True)


def test_harmonic_mean_by_hand():
    estimate = harmonic_mean_over_cases({"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.5, 0.5]})
    assert estimate.value == pytest.approx(3 / (1 / 0.5 + 1 / 1.0 + 1 / 0.5))


def test_harmonic_mean_with_a_zero_is_zero_without_an_interval():
    estimate = harmonic_mean_over_cases({"a": [0.0, 0.0, 0.0], "b": [1.0, 0.0, 1.0]})
    assert (estimate.value, estimate.low) == (0.0, None)


def test_the_delta_method_agrees_with_the_bootstrap():
    rng = np.random.default_rng(0)
    columns = {
        name: list((rng.random(NORMAL_FROM) < p).astype(float)) for name, p in (("a", 0.9), ("b", 0.6), ("c", 0.3))
    }
    many = harmonic_mean_over_cases(columns)
    fewer = harmonic_mean_over_cases({name: values[: NORMAL_FROM - 1] for name, values in columns.items()})
    assert (many.method, fewer.method) == ("delta", "bca")
    assert (many.low, many.high) == pytest.approx((fewer.low, fewer.high), abs=0.004)


@given(shares)
def test_a_share_and_its_interval_stay_in_bounds_and_in_order(values):
    estimate = mean_over_cases(values, share=True)
    turned = mean_over_cases(values[::-1], share=True)
    assert estimate.value == pytest.approx(turned.value)
    if estimate.low is not None:
        assert (estimate.low, estimate.high) == pytest.approx((turned.low, turned.high))
        assert 0 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1


@settings(max_examples=25)
@given(shares, st.integers(0, 39))
def test_a_better_case_never_lowers_a_mean_or_a_score(values, place):
    better = [1.0 if i == place % len(values) else v for i, v in enumerate(values)]
    assert mean_over_cases(better, share=True).value >= mean_over_cases(values, share=True).value
    ones = [1.0] * len(values)
    assert (
        harmonic_mean_over_cases({"a": better, "b": ones}).value
        >= harmonic_mean_over_cases({"a": values, "b": ones}).value
    )


# What the means of a case's probes look like: plain shares, shares of three or five related probes, margins, KL.
POPULATIONS = {
    "plain share": (0.8, True, lambda rng, n: (rng.random(n) < 0.8).astype(float)),
    "three probes": (0.8, True, lambda rng, n: rng.binomial(3, rng.beta(1.6, 0.4, n)) / 3),
    "five probes": (0.6, True, lambda rng, n: rng.binomial(5, rng.beta(0.6, 0.4, n)) / 5),
    "margin": (0.2, False, lambda rng, n: rng.normal(0.2, 0.3, n)),
    "two margins": (0.0, False, lambda rng, n: rng.choice([-0.8, 0.8], n) + rng.normal(0, 0.1, n)),
}


@pytest.mark.parametrize("population", POPULATIONS)
def test_intervals_hold_the_truth_as_often_as_they_say(population):
    truth, share, draw = POPULATIONS[population]
    rng = np.random.default_rng(7)
    estimates = [mean_over_cases(list(draw(rng, 40)), share=share) for _ in range(1000)]
    held = sum(e.low <= truth <= e.high for e in estimates) / 1000
    assert 0.92 <= held <= 0.98


def test_the_scores_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    truth = 3 / (1 / 0.9 + 1 / 0.6 + 1 / 0.75)
    held = 0
    for _ in range(1000):
        a, b = (rng.random(40) < 0.9).astype(float), rng.binomial(2, rng.beta(1.2, 0.8, 40)) / 2
        c = rng.binomial(4, rng.beta(3, 1, 40)) / 4
        estimate = harmonic_mean_over_cases({"a": list(a), "b": list(b), "c": list(c)})
        held += estimate.low <= truth <= estimate.high
    assert 0.92 <= held / 1000 <= 0.98


def test_a_mean_over_tasks_weighs_each_task_the_same():
    estimate = mean_over_tasks([[1.0, 0.0], [1.0] * 8], share=True, clusters=False)
    assert (estimate.value, estimate.cases) == (0.75, 10)
    assert mean_over_tasks([[1.0, 0.0]], share=True, clusters=False) == mean_over_cases([1.0, 0.0], share=True)
    # Of two tasks, half the width of Welch's interval for their difference.
    a, b = [0.1, 0.9, 0.4, 0.7], [0.5, 0.6, 0.1, 0.3, 0.8, 0.2]
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = mean_over_tasks([a, b], share=False, clusters=False)
    assert found.high - found.low == pytest.approx((welch.high - welch.low) / 2)
    # Of paradigms, the means are the units: two of them say little, whatever their size.
    clustered = mean_over_tasks([[1.0] * 50, [0.5] * 50], share=False, clusters=True)
    wanted = stats.t.interval(0.95, 1, 0.75, 0.25)
    assert (clustered.low, clustered.high) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="at least one case of each"):
        mean_over_tasks([[1.0], []], share=True, clusters=False)


@pytest.mark.parametrize("clusters", [False, True])
def test_intervals_over_tasks_hold_the_truth_as_often_as_they_say(clusters):
    rng = np.random.default_rng(11)
    held, truth = 0, 0.7
    for _ in range(1000):
        means = rng.beta(7, 3, 6) if clusters else np.array([0.9, 0.7, 0.5])
        tasks = [list(rng.binomial(3, rng.beta(4 * m, 4 * (1 - m), 20)) / 3) for m in means]
        estimate = mean_over_tasks(tasks, share=True, clusters=clusters)
        held += estimate.low <= truth <= estimate.high
    assert 0.92 <= held / 1000 <= 0.98


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e9, 1e-30])
def test_an_interval_does_not_hang_on_the_order_in_which_a_processor_adds(scale):
    values = np.random.default_rng(8).integers(0, 4, 24) / 3 * scale  # few sizes: many resamples tie with the mean
    last_digits = np.random.default_rng(0)

    def otherwise(sample, axis):
        means = sample.mean(axis=axis)
        return means * (1 + last_digits.integers(-4, 5, np.shape(means)) * np.finfo(float).eps)

    plain = bootstrap_interval([values], lambda sample, axis: sample.mean(axis=axis))
    assert bootstrap_interval([values], otherwise) == plain
    assert plain[2] == "bca"


def test_a_comparison_by_hand():
    found = compare([1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0])
    assert found.difference.value == pytest.approx(4 / 7)
    assert (found.wins, found.losses, found.ties, found.only_a, found.only_b) == (5, 1, 1, 5, 1)
    assert found.p_mcnemar == pytest.approx(2 * (1 + 6) / 2**6)  # of six that differ, at most one against
    # Exact permutation of signs: five of six or more one way, both tails; the tie changes nothing.
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)


def test_cases_on_which_both_agree_change_no_p_value():
    a, b = [0.9, 0.2, 0.7, 0.4, 0.8], [0.1, 0.3, 0.2, 0.1, 0.6]
    # Differences of .8, -.1, .5, .3 and .2 sum to 1.7. Of 32 patterns of signs four sum to as much: this one, the one
    # without a minus (1.9), and their opposites.
    exact = compare(a, b).p
    assert exact == pytest.approx(4 / 32)
    assert compare(a + [0.5] * 40, b + [0.5] * 40).p == exact


@pytest.mark.parametrize("cases", [3, 12])
def test_where_all_cases_go_one_way_the_test_is_exact_and_that_of_signs(cases):
    a = np.random.default_rng(3).random(cases)
    reference = stats.permutation_test(
        (a, np.zeros(cases)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True
    )
    assert compare(list(a), [0.0] * cases).p == pytest.approx(reference.pvalue) == 2 / 2**cases


def test_a_method_does_not_differ_from_itself():
    found = compare([0.5, 1, 0], [0.5, 1, 0])
    assert (found.difference.value, found.p, found.ties, found.p_mcnemar) == (0, 1.0, 3, None)


def test_a_single_case_proves_nothing():
    found = compare([1], [0])
    assert (found.p, found.difference.low) == (None, None)


@given(shares.filter(lambda v: len(v) > 1))
@settings(max_examples=15, deadline=None)
def test_exchanging_the_methods_turns_a_comparison_round(values):
    other = values[::-1]
    there, back = compare(values, other), compare(other, values)
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.p == pytest.approx(back.p, abs=0.02)  # drawn at random where cases are many


def test_the_permutation_test_is_right_as_often_as_it_says():
    rng = np.random.default_rng(5)
    wrong = sum(compare(list(rng.normal(size=8)), list(rng.normal(size=8))).p < 0.05 for _ in range(400))
    assert wrong / 400 < 0.08


def ranked(tasks, parts):
    values, draws = resampled_scores(tasks, parts)
    return rank_intervals(values, draws, sum(map(len, tasks)))


def test_a_score_over_tasks_is_the_harmonic_mean_of_means_over_the_tasks_that_have_a_part():
    both, one = np.array([[[1.0, 0.5]], [[0.0, 0.5]]]), np.array([[[0.25]], [[0.75]], [[0.5]]])
    values, draws = resampled_scores([both, one], [[0, 1], [0]])
    assert values[0] == pytest.approx(2 / (1 / 0.5 + 1 / 0.5))
    assert abs(draws.mean() - 0.47) < 0.03  # a harmonic mean of means that vary is a little less
    values, _ = resampled_scores([one - 1], [[0]])
    assert values[0] == pytest.approx(-0.5)


def test_ranks_of_methods_that_are_told_apart_are_their_places():
    rng = np.random.default_rng(2)
    rates = np.array([0.1, 0.9, 0.5])
    (task,) = [(rng.random((80, 3, 2)) < rates[:, None]).astype(float)]
    assert [(r.best, r.worst) for r in ranked([task], [[0, 1]])] == [(3, 3), (1, 1), (2, 2)]
    # The same answers on every case are a tie, however many cases there are; with few cases nothing is sure.
    twins = np.concatenate([task, task[:, 1:2]], axis=1)
    assert [(r.best, r.worst) for r in ranked([twins], [[0, 1]])] == [(4, 4), (1, 2), (3, 3), (1, 2)]
    assert {(r.best, r.worst) for r in ranked([task[:5]], [[0, 1]])} == {(1, 3)}


@pytest.mark.parametrize("cases", [8, 20])
def test_equal_methods_are_seldom_told_apart(cases):
    rng = np.random.default_rng(cases)
    wrong = sum(
        ranked([(rng.random((cases, 5, 3)) < 0.6).astype(float)], [[0, 1, 2]])[0] != Rank(1, 5) for _ in range(200)
    )
    assert wrong / 200 < 0.09


def test_shares_whose_mean_rounds_to_1_have_the_interval_of_that_many_cases():
    almost = mean_over_cases([1.0, 1.0, 1.0 - 1e-16], share=True)
    certain = mean_over_cases([1.0, 1.0, 1.0], share=True)
    assert (almost.value, almost.low) == pytest.approx((certain.value, certain.low))


def test_mean_over_tasks_of_equal_values_has_no_variance_however_their_mean_is_rounded():
    found = mean_over_tasks([[0.1] * 3, [0.7] * 3], share=False, clusters=False)
    assert (found.low, found.high, found.method) == (None, None, "none")
