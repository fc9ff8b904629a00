"""Means over cases with honest intervals, and honest comparisons of two methods or more.

A case (a fact, a minimal pair) is the unit: its probes share an edit and are not independent, so they are averaged
first. Two methods on the same cases are compared case by case.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import special, stats

Method = Literal["wilson", "wilson-effective", "t", "bca", "percentile", "delta", "none"]
LEVEL = 0.95
Z = float(special.ndtri(0.5 + LEVEL / 2))
RESAMPLES = 2000
FEWEST_FOR_BOOTSTRAP = 20
"""With fewer cases a bootstrap interval is too narrow; Student's t is used."""
DRAWS = 1000
"""Draws for scores over several tasks and for ranks, which need no small tails."""
FEWEST_TO_RANK = 6
"""With fewer cases not even a method that wins them all differs at 95%: two signs in 2**5 ways are more."""
DIGITS = 12
"""Significant digits of a resampled mean that are the same in whatever order its cases are added."""
MANY = 1000
"""From so many cases on, means are normal for all purposes, and a bootstrap is only slow."""


@dataclass(frozen=True)
class Estimate:
    """A mean over cases, its interval, and how the interval was made.

    ``low`` and ``high`` are None where no interval can be given: one case, or identical values of a quantity
    without bounds.
    """

    value: float
    low: float | None
    high: float | None
    method: Method
    cases: int


def mean_over_cases(values: Sequence[float], *, share: bool) -> Estimate:
    """Estimate a mean from one value per case.

    Shares of yes and no get Wilson's interval (Wilson 1927). Other values between 0 and 1, as means over a case's
    probes are, get Wilson's with the effective number of cases, that number of plain yes and no that would vary as
    much (Franco et al. 2019, "Comparative study of confidence intervals for proportions in complex sample surveys").
    In simulations it holds its level where the bootstrap is too narrow. Where all values are equal the number of cases
    itself is taken, which is never too many since p(1-p) bounds their variance.

    Quantities without bounds get the BCa bootstrap (Efron 1987) with a fixed seed, Student's t where cases are few or
    very many.

    Args:
        values: one per case, at least one.
        share: whether each value lies between 0 and 1.

    Raises:
        ValueError: no values; a mean over nothing is no number.
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
    if n < FEWEST_FOR_BOOTSTRAP or n >= MANY:
        half = float(special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * float(data.std(ddof=1)) / n**0.5
        low, high = mean - half, mean + half
        return Estimate(mean, float(low), float(high), "t", n)
    low, high, method = bootstrap_interval([data], lambda sample, axis: sample.mean(axis=axis))
    return Estimate(mean, low, high, method, n)


def mean_over_tasks(tasks: Sequence[Sequence[float]], *, share: bool, clusters: bool) -> Estimate:
    """Estimate the mean of several tasks' means, each task counting the same.

    Args:
        tasks: of each task, one value per case; no task without a case.
        share: whether each value lies between 0 and 1.
        clusters: whether the tasks stand for others of their kind, as paradigms do for a phenomenon: they are then the
            units, however many cases they have. Otherwise the cases are, within each task, as facts are within the
            relations that were chosen.

    Raises:
        ValueError: no task, or one without a case.
    """
    if not tasks or not all(tasks):
        raise ValueError("a mean over tasks needs at least one case of each")
    means = [float(np.mean(values)) for values in tasks]
    if clusters or len(tasks) == 1:
        return mean_over_cases(means if len(tasks) > 1 else list(tasks[0]), share=share)
    value, n = float(np.mean(means)), sum(map(len, tasks))
    if any(len(values) < 2 for values in tasks):
        return Estimate(value, None, None, "none", n)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in tasks]  # each mean's variance
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
    student = float(special.stdtrit(freedom, quantile))
    if not share:
        return Estimate(value, value - student * variance**0.5, value + student * variance**0.5, "t", n)
    worth = value * (1 - value) / variance * (Z / student) ** 2
    return Estimate(value, *_wilson(value, worth), "wilson-effective", n)


def harmonic_mean_over_cases(columns: Mapping[str, Sequence[float]]) -> Estimate | None:
    """Estimate the harmonic mean of several criteria's means, cases resampled whole.

    Args:
        columns: criterion -> one value in [0, 1] per case, the same cases in the same order.

    Returns:
        None where there is no criterion or no case.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    if not arrays or not len(arrays[0]):
        return None
    n = len(arrays[0])
    value = float(_harmonic(*arrays))
    # Where a criterion is zero in every case, so is every resample: that is no certainty, and no interval.
    if n == 1 or value == 0 or all(np.ptp(a) == 0 for a in arrays):
        return Estimate(value, None, None, "none", n)
    if n >= MANY:  # the delta method: d H / d mean_i = H^2 / (k mean_i^2)
        slopes = [value**2 / (len(arrays) * a.mean() ** 2) for a in arrays]
        scale = stats.sem(sum(slope * a for slope, a in zip(slopes, arrays, strict=True)))
        half = Z * float(scale)
        return Estimate(value, max(0.0, value - half), min(1.0, value + half), "delta", n)
    low, high, method = bootstrap_interval(arrays, _harmonic)
    return Estimate(value, low, high, method, n)


def _harmonic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    means = np.stack([sample.mean(axis=axis) for sample in samples])
    with np.errstate(divide="ignore"):
        return np.asarray(len(samples) / (1 / means).sum(axis=0))


def _effective(data: np.ndarray) -> float:
    """Return the effective number of cases, with Student's quantile for the estimated variance."""
    n, mean, variance = len(data), float(data.mean()), float(data.var(ddof=1))
    if variance == 0:
        return float(n)
    quantile = 0.5 + LEVEL / 2
    shrink = (Z / float(special.stdtrit(n - 1, quantile))) ** 2
    return shrink * mean * (1 - mean) * n / variance


def _wilson(mean: float, n: float) -> tuple[float, float]:
    z = Z
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> tuple[float, float, Method]:
    """Return a BCa interval, or the percentile one where BCa is degenerate.

    BCa counts how many resamples lie below the observed value and how many tie with it. Sums are taken in another order
    in each of them, and on each kind of processor, so that ties are only seen where the last digits are dropped.
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
        return stats.bootstrap(
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
    """Method A against method B on the same cases.

    Attributes:
        difference: mean of A minus B over cases, with its interval.
        p: two-sided, of a permutation test that exchanges A and B within cases; exact where cases are few.
        wins: cases in which A is the greater; ``losses``: in which B is.
        only_a: of values that are all yes or no, cases where A says yes and B no; ``only_b``: the other way round.
        p_mcnemar: McNemar's exact test on these two (McNemar 1947); None where values are not yes or no.
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
        a: one value per case.
        b: the other method's, the same cases in the same order.

    Raises:
        ValueError: no case, or not the same number.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"a comparison needs the same cases of both, not {len(a)} and {len(b)}")
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
    """Return the exact two-sided p-value of so many wins and losses, if both were as likely."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def p_of_difference(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the p-value of a paired permutation test of the means; None for a single case."""
    if len(a) < 2:
        return None
    if np.array_equal(a, b):
        return 1.0
    differ = a != b  # where both are the same an exchange changes nothing
    a, b = a[differ], b[differ]
    wins, losses = int((a > b).sum()), int((a < b).sum())
    # Where wins and losses are of one size, or all cases go one way, the exact test is the sign test.
    if len(set(np.abs(a - b))) == 1 or 0 in (wins, losses):
        return sign_test(wins, losses)
    test = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        batch=max(1, 40_000 // len(a)),  # what fits a processor's cache takes half the time
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


@dataclass(frozen=True)
class Rank:
    """Which places a method may have: 1 is the best; methods that share ``best`` form a tie group."""

    best: int
    worst: int


def resampled_scores(tasks: Sequence[np.ndarray], parts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return methods' scores over several tasks, and what they are when each task's cases are drawn again.

    A score is the harmonic mean over parts (criteria) of the mean over the tasks that have the part; with one part it
    is that mean. All methods share each draw, so that differences between them are paired.

    Args:
        tasks: of each task, values of shape (cases, methods, parts of the task).
        parts: of each task, which part each of its columns is.

    Returns:
        Scores of shape (methods,), and of shape (:data:`DRAWS`, methods).
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
    """Return the harmonic mean along the last axis; of a single number, the number itself, whatever its sign."""
    if means.shape[-1] == 1:
        return means[..., 0]
    with np.errstate(divide="ignore"):
        return np.asarray(means.shape[-1] / (1 / means).sum(axis=-1))


def percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the limits of the percentile interval of each column."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def rank_intervals(values: np.ndarray, draws: np.ndarray, cases: int) -> list[Rank]:
    """Return for each method the ranks that the data leave open, each at :data:`LEVEL` (Mogstad et al. 2024).

    A method may have every place between the methods that are surely better than it and those that are surely worse.
    Sure is a difference that, in units of its standard error, is larger than the largest error among the differences to
    all other methods in 95% of the draws.

    Args:
        values: each method's number, greater being better; shape (methods,).
        draws: the same numbers on cases drawn again; shape (draws, methods).
        cases: how many cases there are; with fewer than :data:`FEWEST_TO_RANK` nothing is sure.
    """
    errors = np.ascontiguousarray((draws - values).T)  # (methods, draws)
    spread = np.atleast_2d(np.cov(errors))
    variances = spread.diagonal()[:, None] + spread.diagonal()[None, :] - 2 * spread
    places = []
    for number in range(len(values)):
        difference = values - values[number]
        steady = variances[number] < 1e-12  # a difference that no draw changes
        scale = np.sqrt(np.where(steady, 1.0, variances[number]))
        moving = ~steady
        largest = (np.abs(errors[moving] - errors[number]) / scale[moving, None]).max(axis=0, initial=0.0)
        bound = np.quantile(largest, LEVEL)
        sure = np.where(steady, np.abs(difference) > 1e-9, np.abs(difference) / scale > bound)
        sure &= cases >= FEWEST_TO_RANK
        places.append(
            Rank(1 + int((sure & (difference > 0)).sum()), len(values) - int((sure & (difference < 0)).sum()))
        )
    return places
