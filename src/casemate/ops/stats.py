"""Estimates with their 95% intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats as _stats


@dataclass(frozen=True)
class Estimate:
    """A measured number, its 95% interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if not (self.low <= self.value <= self.high) and self.n > 0:
            raise ValueError(
                f"An estimate must lie in its interval. Got {self.value} outside [{self.low}, {self.high}]."
            )


def share(successes: int, n: int) -> Estimate:
    """Estimate a share of `n` rows, with its Wilson interval."""
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    low, high = _stats.binomtest(int(successes), int(n)).proportion_ci(0.95, "wilson")
    value = successes / n
    return Estimate(value, min(float(low), value), max(float(high), value), int(n))


def exact_share(successes: int, n: int) -> Estimate:
    """Estimate a share of `n` rows, with its Clopper-Pearson (exact) interval."""
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    low, high = _stats.binomtest(int(successes), int(n)).proportion_ci(0.95, "exact")
    return Estimate(successes / n, float(low), float(high), int(n))


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """Estimate the mean of a few independent runs, with Student's t interval."""
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0)
    centre = float(array.mean())
    if n == 1:
        return Estimate(centre, float("-inf"), float("inf"), 1)
    half = float(_stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(centre, centre - half, centre + half, n)


def average(parts: Sequence[Estimate]) -> Estimate:
    """Average estimates of independent samples; their half intervals add in squares."""
    k = len(parts)
    value = sum(p.value for p in parts) / k
    low, high = (
        float(np.sqrt(sum((getattr(p, end) - p.value) ** 2 for p in parts))) / k for end in ("low", "high")
    )
    return Estimate(value, value - low, value + high, sum(p.n for p in parts))


def bootstrap(statistic: "Statistic", *columns: np.ndarray, seed: int = 0, draws: int = 1000) -> Estimate:
    """Estimate a statistic of rows by the percentile bootstrap; columns are resampled together."""
    rng = np.random.default_rng(seed)
    n = len(columns[0])
    if n == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0)
    value = statistic(*columns)
    values = np.empty(draws)
    for i in range(draws):
        pick = rng.integers(0, n, n)
        values[i] = statistic(*(c[pick] for c in columns))
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)), n)


class Statistic(Protocol):
    """Form of what `bootstrap` resamples: arrays of equal length to one number."""

    def __call__(self, *columns: np.ndarray) -> float:
        """Compute the number."""
        ...


def median(values: Sequence[float] | np.ndarray) -> Estimate:
    """Estimate a median, with the distribution-free interval of the order statistics.

    The number of values below the true median is binomial; five values or fewer bound nothing at
    95%, and the interval is infinite.
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    n = len(array)
    if n == 0:
        return Estimate(float("nan"), float("-inf"), float("inf"), 0)
    rank = int(_stats.binom.ppf(0.025, n, 0.5))  # 1-based; the interval is symmetric in the ranks
    low, high = (float(array[rank - 1]), float(array[n - rank])) if rank else (float("-inf"), float("inf"))
    return Estimate(float(np.median(array)), low, high, n)


def mean_share(values: Sequence[float] | np.ndarray) -> Estimate:
    """Estimate the mean of shares in [0, 1], one per independent row, with Wilson's interval.

    Among all values in [0, 1] of a given mean, zeros and ones vary most, so the interval of a share
    of as many rows is never too short, and does not vanish where all values are equal.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    p, z = float(array.mean()), float(_stats.norm.ppf(0.975))
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return Estimate(p, min(max(0.0, centre - half), p), max(min(1.0, centre + half), p), n)
