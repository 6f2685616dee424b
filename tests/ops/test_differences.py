import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from casemate.ops.differences import holm, independent, mcnemar, paired_shares, shares, welch
from casemate.ops.stats import Estimate, mean, share


def table(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two columns of rows with these counts: right in both, only before, only after, in none."""
    before = np.repeat([True, True, False, False], [both, lost, won, neither])
    after = np.repeat([True, False, True, False], [both, lost, won, neither])
    return before, after


@pytest.mark.parametrize(
    ("lost", "won", "p_value"),
    [
        (1, 9, 2 * (1 + 10) / 1024),  # two tails of Bin(10, 1/2): P(0) + P(1) = 11 / 1024
        (9, 1, 2 * (1 + 10) / 1024),
        (0, 5, 2 / 32),
        (3, 3, 1.0),
        (0, 0, 1.0),
        (2, 12, 2 * (1 + 14 + 91) / 2**14),
    ],
)
def test_mcnemar_is_the_binomial_test_of_the_changed_rows(lost, won, p_value):
    assert mcnemar(lost, won) == pytest.approx(p_value)


def test_difference_of_shares_is_newcombes_example():
    """Newcombe (1998), method 10: 56/70 - 48/80 lies in 0.0524 .. 0.3339, 9/10 - 3/10 in 0.1705 .. 0.8090."""
    found, _ = shares(share(48, 80), share(56, 70))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    found, _ = shares(share(3, 10), share(9, 10))
    assert (found.low, found.high) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_difference_of_shares_has_fishers_p_value():
    """3 of 4 against 1 of 4: tables with 4 successes of 8 have weights 1, 16, 36, 16, 1 of 70, and all but
    the middle one are as unlikely as this: 34/70."""
    assert shares(share(3, 4), share(1, 4))[1] == pytest.approx(34 / 70)


def test_uncorrelated_pairs_have_the_interval_of_different_rows():
    """25 rows of each kind: phi = 0."""
    found = paired_shares(*table(25, 25, 25, 25))
    expected, _ = shares(share(50, 100), share(50, 100))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_correlated_pairs_have_a_narrower_interval():
    """60 rows right in both, 10 lost, 0 won, 30 in none: p = 0.7 -> 0.6, phi with the correction is
    (60*30 - 0 - 50) / sqrt(70 * 30 * 60 * 40) = 0.7795. Wilson: 0.6042 .. 0.7811 and 0.5020 .. 0.6906."""
    found = paired_shares(*table(60, 10, 0, 30))
    phi = 1750 / math.sqrt(70 * 30 * 60 * 40)
    before, after = share(70, 100), share(60, 100)
    down, up = after.value - after.low, before.high - before.value
    low = -0.1 - math.sqrt(down**2 - 2 * phi * down * up + up**2)
    assert found.value == pytest.approx(-0.1)
    assert found.low == pytest.approx(low)
    assert found.high < 0
    wide, _ = shares(before, after)
    assert found.high - found.low < 0.6 * (wide.high - wide.low)


def test_paired_interval_covers_the_truth():
    """Of 80 rows, 60% stay right, 5% are won, 20% lost: true difference -0.15. 400 intervals of 95% miss
    more than 35 times with probability 0.0006."""
    rng, missed = np.random.default_rng(0), 0
    for _ in range(400):
        found = paired_shares(*table(*rng.multinomial(80, [0.6, 0.2, 0.05, 0.15])))
        missed += not found.low <= -0.15 <= found.high
    assert missed <= 35


def test_no_pairs_say_nothing():
    found = paired_shares(np.empty(0, bool), np.empty(0, bool))
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (-1, 1, 0)


def test_independent_normal_estimates_have_the_z_test():
    """Errors 3 and 4 add to 5: half width 9.8, z = 10 / 5."""
    before, after = (Estimate(v, v - 1.959964 * s, v + 1.959964 * s, 9) for v, s in ((0.0, 3.0), (10.0, 4.0)))
    found, p_value = independent(before, after)
    assert (found.low, found.high) == pytest.approx((10 - 9.79982, 10 + 9.79982))
    assert p_value == pytest.approx(0.0455, abs=1e-4)


def test_an_unbounded_estimate_tells_no_difference():
    _, p_value = independent(Estimate(0.1, 0.05, 0.15, 10), Estimate(0.9, -math.inf, math.inf, 1))
    assert p_value == 1


def test_welch_agrees_with_the_test_on_the_runs():
    before, after = [0.51, 0.55, 0.49], [0.70, 0.75, 0.61, 0.70]
    expected = ttest_ind(after, before, equal_var=False)
    found, p_value = welch(mean(before), mean(after), (3, 4))
    assert p_value == pytest.approx(expected.pvalue)
    limits = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((limits.low, limits.high))


def test_welch_sees_through_an_interval_cut_at_one():
    runs = [0.97, 0.99, 0.95]
    cut = mean(runs)
    cut = Estimate(cut.value, cut.low, min(1.0, cut.high), 3)
    assert cut.high == 1
    assert welch(mean([0.2, 0.3, 0.1]), cut, (3, 3)) == welch(mean([0.2, 0.3, 0.1]), mean(runs), (3, 3))


def test_welch_of_runs_without_spread_is_certain():
    same = Estimate(0.5, 0.5, 0.5, 3)
    assert welch(same, same, (3, 3))[1] == 1
    assert welch(same, Estimate(0.6, 0.6, 0.6, 3), (3, 3))[1] == 0


def test_holm_multiplies_by_the_hypotheses_left():
    """Sorted 0.01, 0.03, 0.04: times 3, 2, 1 = 0.03, 0.06, 0.04, and never below the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
