import math

import numpy as np
import pytest
from scipy.stats import norm

from casemate.ops.roc import allowed, auc, beats_chance, curve, tpr
from casemate.ops.stats import exact_share


def scores(shift: float, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.normal(0, 1, n)


def test_auc_counts_pairs_and_half_of_the_ties():
    positive, negative = np.array([3.0, 2, 2, 0]), np.array([2.0, 1, 1])
    pairs = [(p > q) + (p == q) / 2 for p in positive for q in negative]
    assert auc(positive, negative).value == pytest.approx(np.mean(pairs))


def test_M3_swapping_the_kinds_mirrors_the_auc_and_its_interval():
    """AUC(member, non) = 1 - AUC(non, member)."""
    positive, negative = scores(0.7, 60, seed=0)
    found, swapped = auc(positive, negative), auc(negative, positive)
    assert found.value == pytest.approx(1 - swapped.value)
    assert (found.low, found.high) == pytest.approx((1 - swapped.high, 1 - swapped.low))


def test_auc_has_delongs_standard_error():
    """var = var_i(share of negatives below positive i) / m + var_j(share of positives above negative j) / n;
    on the logit scale it is divided by (AUC (1 - AUC))^2."""
    positive, negative = scores(0.7, 40, seed=3)
    beats = positive[:, None] > negative
    value = beats.mean()
    error = math.sqrt(beats.mean(1).var(ddof=1) / 40 + beats.mean(0).var(ddof=1) / 40) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    expected = [1 / (1 + math.exp(-logit - z * error)) for z in (-1.959964, 1.959964)]
    found = auc(positive, negative)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-6)


def test_perfect_separation_is_no_certainty():
    """Newcombe's low limit t solves 1 - t = z sd(t); with m = n = 20 that is
    (1 - t)^2 = z^2 t (1 - t) / 400 (1 + 19 (1 - t) / (2 - t) + 19 t / (1 + t))."""
    found = auc(np.arange(100, 120.0), np.arange(20.0))
    t = found.low
    right = 1.959964**2 * t * (1 - t) / 400 * (1 + 19 * (1 - t) / (2 - t) + 19 * t / (1 + t))
    assert (found.value, found.high) == (1, 1)
    assert (1 - t) ** 2 == pytest.approx(right, rel=1e-6)
    assert 0.8 < t < 0.95


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_auc_interval_covers_the_truth(shift):
    """AUC of N(d, 1) against N(0, 1) is Phi(d / sqrt 2). 400 intervals of 95% miss more than 35 times
    with probability 0.0006."""
    truth = norm.cdf(shift / math.sqrt(2))
    found = [auc(*scores(shift, 100, seed)) for seed in range(400)]
    assert sum(not e.low <= truth <= e.high for e in found) <= 35


def test_tpr_counts_what_exceeds_the_allowed_false_alarms():
    """Of 100 others, 0 .. 99, one may exceed the threshold at 1%: it is 98, and 98 itself is not above it."""
    positive = np.array([98.0, 98.5, 99.0, 200.0])
    assert tpr(positive, np.arange(100.0), 0.01).value == 3 / 4
    assert tpr(positive, np.arange(100.0), 0.0).value == 1 / 4


def test_equal_scores_find_nobody_without_false_alarms():
    assert tpr(np.zeros(50), np.zeros(50), 0.01).value == 0


@pytest.mark.parametrize(
    ("fpr", "n", "count"), [(0.29, 100, 29), (0.01, 1000, 10), (0.001, 999, 0), (0.07, 100, 7)]
)
def test_false_alarms_are_counted_without_rounding_errors(fpr, n, count):
    assert allowed(fpr, n) == count


def test_interval_is_clopper_and_pearsons_where_the_threshold_is_certain():
    """Half of the positive rows are above all thresholds near the true one and half below."""
    positive, negative = np.repeat([2.0, -1.0], 20), np.linspace(0, 1, 500)
    found, exact = tpr(positive, negative, 0.1), exact_share(20, 40)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_interval_covers_although_the_threshold_is_estimated(shift):
    """True value Phi(d - z_0.95). Clopper-Pearson alone misses about one in five here: it takes the
    threshold for known. 300 intervals of 95% miss more than 27 times with probability 0.0007."""
    truth = norm.cdf(shift - norm.ppf(0.95))
    found = [tpr(*scores(shift, 200, seed), 0.05) for seed in range(300)]
    alone = [exact_share(round(e.value * e.n), e.n) for e in found]
    assert sum(not e.low <= truth <= e.high for e in found) <= 27
    assert sum(not e.low <= truth <= e.high for e in alone) > 27


def test_M5_a_tenth_of_a_percent_of_a_thousand_rows_is_wide():
    """One row decides: chance itself is compatible with nothing and with three times its value."""
    positive, negative = scores(0.0, 1000, seed=5)
    found = tpr(positive, negative, 0.001)
    assert found.low == 0
    assert found.high > 0.003


def test_no_rows_say_nothing():
    empty = np.empty(0)
    assert math.isnan(auc(empty, np.ones(3)).value)
    assert math.isnan(tpr(np.ones(3), empty, 0.01).value)
    assert curve(np.ones(3), empty) == ([], [])
    assert not beats_chance(empty, empty)


def test_curve_rises_from_one_false_alarm_to_all():
    rates, points = curve(*scores(1.0, 300, seed=1))
    assert rates[0] == 1 / 300
    assert rates[-1] == 1
    values = [p.value for p in points]
    assert values == sorted(values)
    assert values[-1] == 1
    assert all(p.low <= p.value <= p.high for p in points)


def test_chance_is_not_beaten_by_noise():
    """Two tests at 0.01% each: two or more of 200 are wrong with probability 0.0008."""
    assert sum(beats_chance(*scores(0.0, 200, seed)) for seed in range(200)) <= 1


def test_chance_is_beaten_by_a_shift_and_by_a_few_sure_rows():
    assert beats_chance(*scores(0.4, 300, seed=0))
    positive, negative = scores(0.0, 1000, seed=0)
    positive[:40] = 10
    assert beats_chance(positive, negative)
