import math

import numpy as np
import pytest
from scipy.stats import beta, binom, norm, t

from casemate.ops.stats import Estimate, bootstrap, exact_share, mean, median, share


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (81, 263), (500, 1000)])
def test_wilson_limits_solve_the_score_equation(successes, n):
    """The limits are the p at which |successes/n - p| = z sqrt(p (1 - p) / n), that is
    (s/n + z^2/2n +- z sqrt(s/n (1 - s/n) / n + z^2/4n^2)) / (1 + z^2/n)."""
    z, p = norm.ppf(0.975), successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    found = share(successes, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert (found.value, found.n) == (p, n)


def test_wilson_limits_of_newcombes_example():
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = share(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_exact_limits_at_the_ends_are_powers(n):
    """No success in n: (1 - high)^n = 0.025; only successes: low^n = 0.025."""
    none, all_ = exact_share(0, n), exact_share(n, n)
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025 ** (1 / n)))
    assert (all_.low, all_.high) == pytest.approx((0.025 ** (1 / n), 1))


def test_exact_limits_are_beta_quantiles():
    found = exact_share(7, 30)
    assert found.low == pytest.approx(beta.ppf(0.025, 7, 24))
    assert found.high == pytest.approx(beta.ppf(0.975, 8, 23))


def test_exact_limits_cover_every_share_and_wilsons_do_on_average():
    """Coverage at p is the sum of binomial probabilities of the outcomes whose interval holds p."""
    n, shares = 25, np.linspace(0.01, 0.99, 99)
    coverage = {}
    for interval in (share, exact_share):
        found = [interval(s, n) for s in range(n + 1)]
        holds = np.array([[e.low <= p <= e.high for e in found] for p in shares])
        coverage[interval] = (holds * binom.pmf(np.arange(n + 1), n, shares[:, None])).sum(1)
    assert coverage[exact_share].min() >= 0.95
    assert coverage[share].mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("interval", [share, exact_share])
def test_no_rows_say_nothing(interval):
    found = interval(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0, 1, 0)


def test_mean_has_students_interval():
    """1, 2, 3: mean 2, deviation 1, half width t(0.975, 2) / sqrt 3 = 4.3027 / 1.7321 = 2.4841."""
    found = mean([1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert found.high == pytest.approx(2 + t.ppf(0.975, 2) / math.sqrt(3))


def test_one_run_bounds_nothing():
    found = mean([0.3])
    assert (found.value, found.low, found.high, found.n) == (0.3, -math.inf, math.inf, 1)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    """The standard error of 400 values is sd / 20; 2000 draws place the limits within a twentieth of it."""
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda column: float(column.mean()), values, draws=2000)
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_resamples_columns_together():
    values = np.random.default_rng(1).normal(size=50)
    found = bootstrap(lambda a, b: float((a - b).mean()), values, values - 1)
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_bootstrap_repeats_with_its_seed_only():
    values = np.arange(30.0)
    runs = [bootstrap(lambda column: float(column.mean()), values, seed=s) for s in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_bootstrap_of_nothing_bounds_nothing():
    found = bootstrap(lambda column: float(column.mean()), np.empty(0))
    assert math.isnan(found.value)
    assert found.n == 0


def test_ten_values_bound_their_median_by_the_second_and_the_ninth():
    """P(fewer than two of ten below the median) = 11/1024 <= 0.025, of fewer than three 56/1024."""
    found = median([5, 3, 1, 2, 4, 10, 8, 6, 7, 9])
    assert (found.value, found.low, found.high, found.n) == (5.5, 2, 9, 10)


@pytest.mark.parametrize("n", range(6, 80))
def test_median_limits_are_the_narrowest_that_cover(n):
    """The limits of rank r and n + 1 - r fail with probability 2 P(Bin(n, 1/2) < r)."""
    found = median(range(1, n + 1))
    assert found.low + found.high == n + 1
    assert 2 * binom.cdf(found.low - 1, n, 0.5) <= 0.05 < 2 * binom.cdf(found.low, n, 0.5)


def test_five_values_cannot_bound_their_median():
    """All five lie on one side of it with probability 2 / 32 > 0.05."""
    found = median([1, 2, 3, 4, 5])
    assert (found.value, found.low, found.high) == (3, -math.inf, math.inf)


def test_unbroken_rows_make_the_median_infinite_not_wrong():
    found = median([1.0] * 4 + [math.inf] * 6)
    assert (found.value, found.low, found.high) == (math.inf, 1, math.inf)


def test_an_estimate_outside_its_interval_is_refused():
    with pytest.raises(ValueError, match="outside"):
        Estimate(0.5, 0.6, 0.7, 10)
