from __future__ import annotations

import numpy as np
import pytest
from knbench.benchmark.statistics import harmonic_mean_over_cases, mean_over_cases
from scipy import stats


@pytest.mark.parametrize(("hits", "n"), [(0, 12), (12, 12), (7, 10), (1, 2)])
def test_shares_get_wilsons_interval(hits, n):
    estimate = mean_over_cases([1.0] * hits + [0.0] * (n - hits), share=True)
    reference = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (estimate.value, estimate.method) == (hits / n, "wilson")
    assert (estimate.low, estimate.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_means_get_the_bootstrap_and_the_same_one_each_time():
    values = list(np.random.default_rng(1).normal(size=40))
    first, again = mean_over_cases(values, share=False), mean_over_cases(values, share=False)
    assert first == again
    assert first.method == "bca"
    normal = stats.norm.interval(0.95, np.mean(values), stats.sem(values))
    assert (first.low, first.high) == pytest.approx(normal, abs=0.06)


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
