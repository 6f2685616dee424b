"""Is a difference between two measured numbers more than chance?"""

from collections.abc import Sequence

import numpy as np
from scipy import stats as _stats

from casemate.ops.stats import Estimate, share


def mcnemar(lost: int, won: int) -> float:
    """Give the exact two-sided p-value of McNemar's test.

    Args:
        lost: rows that were good before and are bad after.
        won: rows that were bad before and are good after.

    Returns:
        The p-value; 1 where nothing changed.
    """
    if lost + won == 0:
        return 1.0
    return float(_stats.binomtest(int(won), int(lost + won), 0.5).pvalue)


def paired_shares(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Estimate the difference after - before of two shares of the same rows, (N,) bool each.

    Newcombe's interval for paired data (1998, method 10): the Wilson limits of both shares,
    combined with the correlation phi of the two columns.
    """
    n = len(before)
    if n == 0:
        return Estimate(float("nan"), -1.0, 1.0, 0)
    both, lost = int((before & after).sum()), int((before & ~after).sum())
    won, neither = int((~before & after).sum()), int((~before & ~after).sum())
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    excess = float(both * neither - lost * won)
    if excess > 0:  # the continuity correction keeps a positive phi from being overstated
        excess = max(excess - n / 2, 0.0)
    phi = excess / margins**0.5 if margins else 0.0
    return _combine(share(both + lost, n), share(both + won, n), phi, n)


def shares(before: Estimate, after: Estimate) -> tuple[Estimate, float]:
    """Compare two shares of different rows: difference (Newcombe's interval) and Fisher's exact p-value."""
    hits = [round(before.value * before.n), round(after.value * after.n)]
    table = [[hits[0], before.n - hits[0]], [hits[1], after.n - hits[1]]]
    return independent(before, after)[0], float(_stats.fisher_exact(table).pvalue)


def independent(before: Estimate, after: Estimate) -> tuple[Estimate, float]:
    """Compare two independent estimates of any kind by their 95% intervals.

    The limits of the difference follow from those of the parts (Zou and Donner 2008; with Wilson
    intervals this is Newcombe's method for shares). The p-value takes the side of the interval that
    faces zero for 1.96 standard errors.
    """
    difference = _combine(before, after, 0.0, min(before.n, after.n))
    value = difference.value
    reach = value - difference.low if value > 0 else difference.high - value
    if value == 0 or not np.isfinite(reach):
        return difference, 1.0
    if reach == 0:
        return difference, 0.0
    return difference, float(2 * _stats.norm.sf(1.959963984540054 * abs(value) / reach))


def _combine(before: Estimate, after: Estimate, phi: float, n: int) -> Estimate:
    """Limits of after - before from the limits of both and their correlation."""
    value = after.value - before.value
    low = value - _length(after.value - after.low, before.high - before.value, phi)
    high = value + _length(before.value - before.low, after.high - after.value, phi)
    return Estimate(value, low, high, n)


def _length(a: float, b: float, phi: float) -> float:
    """Length of the difference of two vectors of lengths a and b at an angle of cosine phi."""
    if not (np.isfinite(a) and np.isfinite(b)):
        return float("inf")
    return float(max(0.0, a**2 - 2 * phi * a * b + b**2) ** 0.5)


def welch(before: Estimate, after: Estimate, runs: tuple[int, int]) -> tuple[Estimate, float]:
    """Compare two means of a few runs by Welch's t test.

    Args:
        before: mean with Student's interval, which may have been cut to a range on one side.
        after: likewise.
        runs: number of runs behind each, at least two.

    Returns:
        The difference after - before, and its two-sided p-value.
    """
    variances = [
        (max(e.high - e.value, e.value - e.low) / float(_stats.t.ppf(0.975, k - 1))) ** 2
        for e, k in zip((before, after), runs, strict=True)
    ]
    value = after.value - before.value
    n = min(before.n, after.n)
    total = sum(variances)
    if total == 0:
        return Estimate(value, value, value, n), 1.0 if value == 0 else 0.0
    freedom = total**2 / sum(v**2 / (k - 1) for v, k in zip(variances, runs, strict=True))
    half = float(_stats.t.ppf(0.975, freedom)) * total**0.5
    p_value = float(2 * _stats.t.sf(abs(value) / total**0.5, freedom))
    return Estimate(value, value - half, value + half, n), p_value


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for asking several questions at once (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for position, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - position) * p_values[i]))
        adjusted[i] = largest
    return [float(p) for p in adjusted]
