"""How well scores tell rows of one kind (positive) from another: AUC, and hits at few false alarms."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special
from scipy import stats as _stats

from casemate.ops.stats import Estimate

Z = 1.959963984540054  # 97.5% quantile of the standard normal distribution


def auc(positive: np.ndarray, negative: np.ndarray) -> Estimate:
    """Estimate the chance that a positive row (M,) scores above a negative one (N,); ties count half.

    The interval is DeLong's (1988) on the logit scale, which keeps it in [0, 1]; where its variance
    is zero, as for perfectly separated rows, Newcombe's score interval (2006, method 5) stands in.
    """
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    ranks = _stats.rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - _stats.rankdata(positive)) / n
    below = (ranks[m:] - _stats.rankdata(negative)) / m
    value = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n if min(m, n) > 1 else 0.0
    if variance > 0 and 0 < value < 1:
        half = Z * float(np.sqrt(variance)) / (value * (1 - value))
        low, high = (float(limit) for limit in special.expit(special.logit(value) + np.array([-half, half])))
    else:
        low, high = _score_interval(value, m, n)
    return Estimate(value, min(low, value), max(high, value), m + n)


def _score_interval(value: float, m: int, n: int) -> tuple[float, float]:
    """Newcombe's interval: all t with |value - t| <= z * sd(t), by Hanley and McNeil's variance."""

    def excess(t: float) -> float:
        more = (m + n) / 2 - 1
        variance = t * (1 - t) / (m * n) * (1 + more * (1 - t) / (2 - t) + more * t / (1 + t))
        return (value - t) ** 2 - Z**2 * variance

    tiny = 1e-12  # at an AUC of 0 or 1 the end itself is a root, but not the limit
    low = 0.0 if value == 0 else optimize.brentq(excess, 0.0, min(value, 1 - tiny))
    high = 1.0 if value == 1 else optimize.brentq(excess, max(value, tiny), 1.0)
    return float(low), float(high)


def tpr(positive: np.ndarray, negative: np.ndarray, fpr: float) -> Estimate:
    """Estimate the share of positive rows found at a share `fpr` of false alarms.

    The threshold is the lowest score that at most a share `fpr` of the negative rows exceeds. The
    interval accounts for both samples: the number of negative rows above the true threshold is
    binomial, and given that number the Clopper-Pearson limits hold; they are mixed accordingly.
    With few negative rows above the threshold it is wide, as it must be.

    Args:
        positive: scores (M,) of the rows to be found.
        negative: scores (N,) of the other rows.
        fpr: share of negative rows that may be called positive, in [0, 1].

    Returns:
        The share, of M rows.
    """
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return Estimate(float("nan"), 0.0, 1.0, 0)
    found = _found(positive, negative)
    value = found[allowed(fpr, n)] / m
    low, high = _limits(found, m, n, fpr)
    return Estimate(float(value), min(low, float(value)), max(high, float(value)), m)


def allowed(fpr: float, n: int) -> int:
    """Count the false alarms that a share `fpr` of n rows allows; 0.29 of 100 rows are 29."""
    return int(np.floor(fpr * n * (1 + 1e-12)))


def curve(positive: np.ndarray, negative: np.ndarray, points: int = 33) -> tuple[list[float], list[Estimate]]:
    """Follow the ROC at false-alarm rates from 1/N to 1, evenly spaced on a log axis."""
    n = len(negative)
    counts = np.unique(np.geomspace(1, n, points).round().astype(int)) if n else np.empty(0, int)
    rates = [float(c / n) for c in counts]
    return rates, [tpr(positive, negative, rate) for rate in rates]


def _found(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Count the positive rows above the k-th highest negative score, k = 1 .. N, then all, (N + 1,)."""
    at_most = np.searchsorted(np.sort(positive), np.sort(negative)[::-1], side="right")
    return np.append(len(positive) - at_most, len(positive))


def _limits(found: np.ndarray, m: int, n: int, fpr: float) -> tuple[float, float]:
    """Mix Clopper-Pearson limits over the number of negative rows above the true threshold."""
    first, last = _stats.binom.ppf([1e-9, 1 - 1e-9], n, fpr).astype(int)
    j = np.arange(max(0, first), last + 1)
    weight = _stats.binom.pmf(j, n, fpr)
    # j negative rows above the threshold put it between the j-th and the next highest of them
    fewest = np.where(j > 0, found[np.maximum(j - 1, 0)], 0)
    most = found[j]
    return _quantile(fewest, m - fewest + 1, weight, 0.025), _quantile(most + 1, m - most, weight, 0.975)


def _quantile(a: np.ndarray, b: np.ndarray, weight: np.ndarray, level: float) -> float:
    """Quantile of a mixture of Beta(a, b); a = 0 is all mass at 0, b = 0 all mass at 1."""
    total = weight.sum()

    def excess(t: float) -> float:
        mass = special.betainc(np.maximum(a, 1), np.maximum(b, 1), t)
        mass = np.where(a == 0, 1.0, np.where(b == 0, 0.0, mass))
        return float((weight * mass).sum() / total - level)

    if excess(0.0) >= 0:
        return 0.0
    if excess(1.0 - 1e-12) <= 0:
        return 1.0
    return float(optimize.brentq(excess, 0.0, 1.0 - 1e-12, xtol=1e-9))


def beats_chance(positive: np.ndarray, negative: np.ndarray, *, level: float = 1e-4) -> bool:
    """Tell whether scores clearly know positive from negative rows, overall or at 1% false alarms.

    Args:
        positive: scores (M,).
        negative: scores (N,).
        level: chance of a wrong yes of each of the two tests (Mann-Whitney, and Fisher's exact
            test at the threshold). Small, because cross-validated scores depend on one another: under
            chance their AUC varies about a fifth more than the tests expect.

    Returns:
        Whether one of the tests says yes.
    """
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return False
    overall = _stats.mannwhitneyu(positive, negative, alternative="greater", method="asymptotic").pvalue
    false = allowed(0.01, n)
    hits = int(_found(positive, negative)[false])
    table: Sequence[Sequence[int]] = [[hits, m - hits], [false, n - false]]
    return bool(overall < level or _stats.fisher_exact(table, alternative="greater").pvalue < level)
