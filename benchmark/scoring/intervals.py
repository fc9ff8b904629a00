"""Means over cases with confidence intervals, and paired comparisons of two or more methods.

The unit of statistics is the case (a fact, a minimal pair). The probes of a case share an edit and are not independent,
and are therefore averaged first. Two methods on the same cases are compared case by case.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import scipy  # scipy.stats, which takes half a second, is imported on first use

Method = Literal["wilson", "wilson-effective", "t", "bca", "percentile", "delta", "none"]
LEVEL = 0.95
"""Confidence level of all intervals."""
Z = float(scipy.special.ndtri(0.5 + LEVEL / 2))
RESAMPLES = 2000
MIN_CASES_FOR_BOOTSTRAP = 20
"""Minimum number of cases for a bootstrap interval, which is too narrow for fewer; Student's t is used instead."""
DRAWS = 1000
"""Bootstrap draws for scores over several tasks and for ranks, which do not depend on the far tails."""
MIN_CASES_TO_RANK = 6
"""Minimum number of cases for a rank. With 5 cases, a method that wins all of them has p = 2 / 2**5 > 0.05."""
DIGITS = 12
"""Significant digits of a resampled mean that do not depend on the order of summation."""
NORMAL_FROM = 1000
"""Number of cases from which means are treated as normally distributed, without a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A mean over cases with its 95% interval.

    Attributes:
        value: the mean.
        low: lower end of the interval; None for a single case, or for equal values of an unbounded quantity.
        high: upper end of the interval, or None.
        method: how the interval was computed.
        cases: number of cases.
    """

    value: float
    low: float | None
    high: float | None
    method: Method
    cases: int


def mean_over_cases(values: Sequence[float], *, share: bool) -> Estimate:
    """Estimate a mean from one value per case.

    Binary values have Wilson's interval (Wilson 1927). Other values between 0 and 1, such as means over the probes of a
    case, have Wilson's interval with the effective number of cases: the number of binary values with the same variance
    of the mean (Franco et al. 2019, "Comparative study of confidence intervals for proportions in complex sample
    surveys"). In simulations it keeps its level where the bootstrap is too narrow. If all values are equal, the number
    of cases is used, which is conservative because p(1-p) bounds the variance.

    Unbounded quantities have the BCa bootstrap interval (Efron 1987) with a fixed seed, and Student's t for fewer than
    :data:`MIN_CASES_FOR_BOOTSTRAP` or at least :data:`NORMAL_FROM` cases.

    Args:
        values: one value per case.
        share: whether each value lies between 0 and 1.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one case")
    data = np.asarray(values, dtype=np.float64)
    mean, n = float(data.mean()), len(data)
    if n == 1:
        return Estimate(mean, None, None, "none", n)
    if share:
        if np.isin(data, (0.0, 1.0)).all():
            return Estimate(mean, *_wilson(mean, n), "wilson", n)
        return Estimate(mean, *_wilson(mean, _effective(data)), "wilson-effective", n)
    if np.ptp(data) == 0:
        return Estimate(mean, None, None, "none", n)
    if n < MIN_CASES_FOR_BOOTSTRAP or n >= NORMAL_FROM:
        half = float(scipy.special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * float(data.std(ddof=1)) / n**0.5
        low, high = mean - half, mean + half
        return Estimate(mean, float(low), float(high), "t", n)
    low, high, method = bootstrap_interval([data], lambda sample, axis: sample.mean(axis=axis))
    return Estimate(mean, low, high, method, n)


def mean_over_tasks(tasks: Sequence[Sequence[float]], *, share: bool, clusters: bool) -> Estimate:
    """Estimate the mean of the means of several tasks. Every task has the same weight.

    Args:
        tasks: for each task, one value per case.
        share: whether each value lies between 0 and 1.
        clusters: whether the tasks are a sample of their kind, as paradigms are of a phenomenon; the task is then the
            unit of sampling. Otherwise the case is, within each task, as facts are within the chosen relations.

    Raises:
        ValueError: there is no task, or a task without a case.
    """
    if not tasks or not all(tasks):
        raise ValueError("a mean over tasks needs at least one case of each")
    means = [math.fsum(values) / len(values) for values in tasks]  # of few values, faster than numpy
    if clusters or len(tasks) == 1:
        return mean_over_cases(means if len(tasks) > 1 else list(tasks[0]), share=share)
    value, n = math.fsum(means) / len(means), sum(map(len, tasks))
    if any(len(values) < 2 for values in tasks):
        return Estimate(value, None, None, "none", n)
    parts = [_variance_of_mean(values, mean) for values, mean in zip(tasks, means, strict=True)]
    variance = sum(parts) / len(tasks) ** 2
    if variance == 0:
        return (
            Estimate(value, *_wilson(value, n), "wilson-effective", n)
            if share
            else Estimate(value, None, None, "none", n)
        )
    # Welch and Satterthwaite's degrees of freedom
    freedom = sum(parts) ** 2 / sum(p**2 / (len(values) - 1) for p, values in zip(parts, tasks, strict=True))
    quantile = 0.5 + LEVEL / 2
    student = float(scipy.special.stdtrit(freedom, quantile))
    if not share:
        return Estimate(value, value - student * variance**0.5, value + student * variance**0.5, "t", n)
    worth = value * (1 - value) / variance * (Z / student) ** 2
    return Estimate(value, *_wilson(value, worth), "wilson-effective", n)


def _variance_of_mean(values: Sequence[float], mean: float) -> float:
    """Return the variance of a mean; exactly 0 for equal values, whose mean may be rounded."""
    if min(values) == max(values):
        return 0.0
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def harmonic_mean_over_cases(columns: Mapping[str, Sequence[float]]) -> Estimate | None:
    """Estimate the harmonic mean of the means of several criteria. Whole cases are resampled.

    Args:
        columns: by criterion, one value in [0, 1] per case, in the same order for all criteria.

    Returns:
        The estimate, or None if there is no criterion or no case.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    if not arrays or not len(arrays[0]):
        return None
    n = len(arrays[0])
    value = float(_harmonic(*arrays))
    # If a criterion is 0 in every case, every resample is 0. An interval of width 0 would claim certainty.
    if n == 1 or value == 0 or all(np.ptp(a) == 0 for a in arrays):
        return Estimate(value, None, None, "none", n)
    if n >= NORMAL_FROM:  # the delta method: d H / d mean_i = H^2 / (k mean_i^2)
        slopes = [value**2 / (len(arrays) * a.mean() ** 2) for a in arrays]
        scale = scipy.stats.sem(sum(slope * a for slope, a in zip(slopes, arrays, strict=True)))
        half = Z * float(scale)
        return Estimate(value, max(0.0, value - half), min(1.0, value + half), "delta", n)
    low, high, method = bootstrap_interval(arrays, _harmonic)
    return Estimate(value, low, high, method, n)


def _harmonic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    means = np.stack([sample.mean(axis=axis) for sample in samples])
    with np.errstate(divide="ignore"):
        return np.asarray(len(samples) / (1 / means).sum(axis=0))


def _effective(data: np.ndarray) -> float:
    """Return the effective number of cases, corrected by Student's quantile for the estimated variance."""
    n, mean, variance = len(data), float(data.mean()), float(data.var(ddof=1))
    if variance == 0 or mean in (0, 1):  # a mean can round to 1 although one value is below it
        return float(n)
    quantile = 0.5 + LEVEL / 2
    shrink = (Z / float(scipy.special.stdtrit(n - 1, quantile))) ** 2
    return shrink * mean * (1 - mean) * n / variance


def _wilson(mean: float, n: float) -> tuple[float, float]:
    z = Z
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> tuple[float, float, Method]:
    """Return the BCa interval, or the percentile interval where BCa is undefined.

    BCa counts the resamples below the observed value and those equal to it. The order of summation differs between
    resamples and between processors. Values are therefore rounded to :data:`DIGITS` digits, without which equal values
    would not be recognised.

    Args:
        samples: one or more paired samples of shape (cases,).
        statistic: function of the samples and ``axis``.

    Raises:
        ArithmeticError: neither interval is finite.
    """
    scale = max(float(np.abs(sample).max()) for sample in samples)
    decimals = min(DIGITS - math.ceil(math.log10(scale)), 300) if scale > 0 else DIGITS

    def rounded(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.round(statistic(*drawn, axis=axis), decimals))

    low = high = float("nan")
    for method in ("bca", "percentile"):
        found = _resample(samples, rounded, method)
        low, high = float(found.confidence_interval.low), float(found.confidence_interval.high)
        if np.isfinite(low) and np.isfinite(high):
            return low, high, "bca" if method == "bca" else "percentile"
    raise ArithmeticError("the bootstrap gave no finite interval")


def _resample(samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], method: str) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return scipy.stats.bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method=method,
            rng=np.random.default_rng(0),
        )


# --- comparing methods -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Comparison of methods A and B on the same cases.

    Attributes:
        difference: mean of A - B over cases, with its interval.
        p: two-sided p-value of a permutation test that exchanges A and B within cases; exact for few cases.
        wins: number of cases with A > B.
        losses: number of cases with A < B.
        ties: number of cases with A = B.
        only_a: for binary values, number of cases with A = 1 and B = 0.
        only_b: for binary values, number of cases with A = 0 and B = 1.
        p_mcnemar: p-value of McNemar's exact test on these two (McNemar 1947); None unless values are binary.
    """

    difference: Estimate
    p: float | None
    wins: int
    losses: int
    ties: int
    only_a: int | None
    only_b: int | None
    p_mcnemar: float | None


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Compare two methods case by case.

    Args:
        a: values of method A, one per case.
        b: values of method B on the same cases, in the same order.

    Raises:
        ValueError: there is no case, or the numbers of cases differ.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"a comparison needs the same cases for both methods, not {len(a)} and {len(b)}")
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    wins, losses = int((x > y).sum()), int((x < y).sum())
    plain = bool(np.isin([x, y], (0.0, 1.0)).all())
    return Comparison(
        difference=mean_over_cases(list(x - y), share=False),
        p=p_of_difference(x, y),
        wins=wins,
        losses=losses,
        ties=len(x) - wins - losses,
        only_a=wins if plain else None,
        only_b=losses if plain else None,
        p_mcnemar=sign_test(wins, losses) if plain else None,
    )


@cache
def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of the sign test."""
    return float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def p_of_difference(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the p-value of a paired permutation test of the means; None for a single case."""
    if len(a) < 2:
        return None
    if np.array_equal(a, b):
        return 1.0
    differ = a != b  # exchanging equal values changes nothing
    a, b = a[differ], b[differ]
    wins, losses = int((a > b).sum()), int((a < b).sum())
    # If all differences have one size, or one sign, the exact permutation test is the sign test.
    if len(set(np.abs(a - b))) == 1 or 0 in (wins, losses):
        return sign_test(wins, losses)
    test = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=max(1, 40_000 // len(a)),  # a batch that fits the processor cache takes half the time
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


@dataclass(frozen=True)
class Rank:
    """Range of ranks that the data allow for a method; 1 is the best. Methods with equal ``best`` form a tie group."""

    best: int
    worst: int


def resampled_scores(tasks: Sequence[np.ndarray], parts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of methods over several tasks, and the scores on resampled cases.

    A score is the harmonic mean over parts (criteria) of the mean over the tasks that have the part. With one part it
    is that mean. All methods share each draw, so that differences between them are paired.

    Args:
        tasks: for each task, values of shape (cases, methods, parts of the task).
        parts: for each task, the index of the part of each column.

    Returns:
        Scores of shape (methods,) and resampled scores of shape (:data:`DRAWS`, methods).
    """
    rng = np.random.default_rng(0)
    methods, count = tasks[0].shape[1], 1 + max(max(columns) for columns in parts)
    observed, drawn = np.zeros((methods, count)), np.zeros((DRAWS, methods, count))
    having = np.zeros(count)
    for values, columns in zip(tasks, parts, strict=True):
        cases = len(values)
        counts = rng.multinomial(cases, np.full(cases, 1 / cases), size=DRAWS)  # (draws, cases)
        means = counts @ values.reshape(cases, -1) / cases
        observed[:, columns] += values.mean(axis=0)
        drawn[:, :, columns] += means.reshape(DRAWS, methods, -1)
        having[columns] += 1
    return _harmonic_of(observed / having), _harmonic_of(drawn / having)


def _harmonic_of(means: np.ndarray) -> np.ndarray:
    """Return the harmonic mean along the last axis; for a single number, the number itself, which may be negative."""
    if means.shape[-1] == 1:
        return means[..., 0]
    with np.errstate(divide="ignore"):
        return np.asarray(means.shape[-1] / (1 / means).sum(axis=-1))


def percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the percentile interval of each column."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def rank_intervals(values: np.ndarray, draws: np.ndarray, cases: int) -> list[Rank]:
    """Return the rank interval of each method at :data:`LEVEL` (Mogstad et al. 2024).

    The interval of a method contains every rank between the methods that are significantly better and those that are
    significantly worse. A difference is significant if, in units of its standard error, it exceeds the largest error
    among the differences to all other methods in 95% of the draws.

    Args:
        values: score of each method, of shape (methods,); greater is better.
        draws: scores on resampled cases, of shape (draws, methods).
        cases: number of cases; with fewer than :data:`MIN_CASES_TO_RANK` no difference is significant.
    """
    errors = np.ascontiguousarray((draws - values).T)  # (methods, draws)
    spread = np.atleast_2d(np.cov(errors))
    variances = spread.diagonal()[:, None] + spread.diagonal()[None, :] - 2 * spread
    ranks = []
    for number in range(len(values)):
        difference = values - values[number]
        constant = variances[number] < 1e-12  # no draw changes the difference
        scale = np.sqrt(np.where(constant, 1.0, variances[number]))
        varying = ~constant
        largest = (np.abs(errors[varying] - errors[number]) / scale[varying, None]).max(axis=0, initial=0.0)
        bound = np.quantile(largest, LEVEL)
        significant = np.where(constant, np.abs(difference) > 1e-9, np.abs(difference) / scale > bound)
        significant &= cases >= MIN_CASES_TO_RANK
        ranks.append(
            Rank(
                1 + int((significant & (difference > 0)).sum()),
                len(values) - int((significant & (difference < 0)).sum()),
            )
        )
    return ranks
