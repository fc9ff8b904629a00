"""Means over cases with honest intervals.

A case (a fact, a minimal pair) is the unit: its probes share an edit and are not independent, so they are averaged
first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Method = Literal["wilson", "bca", "percentile", "none"]
LEVEL = 0.95
RESAMPLES = 2000


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

    Shares of yes and no get Wilson's interval (Wilson 1927); other values the BCa bootstrap (Efron 1987) with a
    fixed seed. Where all values are equal a bootstrap has no width, which would claim certainty: of a quantity
    between 0 and 1 Wilson's interval is then used, which is never too narrow since p(1-p) bounds its variance.

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
    if share and (np.isin(data, (0.0, 1.0)).all() or np.ptp(data) == 0):
        interval = _wilson(mean, n)
        return Estimate(mean, *interval, "wilson", n)
    if np.ptp(data) == 0:
        return Estimate(mean, None, None, "none", n)
    low, high, method = _bootstrap([data], lambda sample, axis: sample.mean(axis=axis))
    return Estimate(mean, low, high, method, n)


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

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        means = np.stack([sample.mean(axis=axis) for sample in samples])
        with np.errstate(divide="ignore"):
            return np.asarray(len(samples) / (1 / means).sum(axis=0))

    value = float(statistic(*arrays))
    if n == 1 or all(np.ptp(a) == 0 for a in arrays):
        return Estimate(value, None, None, "none", n)
    low, high, method = _bootstrap(arrays, statistic)
    if low == high:  # one criterion is zero in every case, and with it every resample: that is no certainty
        return Estimate(value, None, None, "none", n)
    return Estimate(value, low, high, method, n)


def _wilson(mean: float, n: int) -> tuple[float, float]:
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap(samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> tuple[float, float, Method]:
    """Return a BCa interval, or the percentile one where BCa is degenerate."""
    low = high = float("nan")
    for method in ("bca", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            interval = stats.bootstrap(
                samples,
                statistic,
                paired=len(samples) > 1,
                vectorized=True,
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
        if np.isfinite(low) and np.isfinite(high):
            return low, high, "bca" if method == "bca" else "percentile"
    raise ArithmeticError("the bootstrap gave no finite interval")
