"""Auto-PGD against its algorithm written out row by row, and against closed forms."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor

from casemate.attacks.evasion.apgd import apgd, apgd_t, checkpoints
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Become, Goal, Lp, Misclassify, NeverReached
from casemate.ops.norms import random_in_ball, size
from casemate.ops.rng import rows
from conformance.models import linear, mlp, never_fooled

DUAL = {"linf": "l1", "l2": "l2"}
NORMS = pytest.mark.parametrize("norm", list(DUAL))


class Watched(Prepared):
    """A prepared target that keeps what it is asked."""

    def __init__(self, target: Classifier) -> None:
        super().__init__(target)
        self.asked: list[Tensor] = []

    def exact(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return super().exact(x)


class Hill(torch.nn.Module):
    """Logits (0, f), f = -9 - sum of c_i (x_i - m_i)^2 + bumps * sum of sin(20 x_i): class 0 everywhere."""

    def __init__(self, bumps: float = 0.0) -> None:
        super().__init__()
        self.bumps = bumps
        self.c = torch.tensor([1.0, 4.0, 30.0], dtype=torch.float64)
        self.m = torch.tensor([0.55, 0.42, 0.47], dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        f = -9 - (self.c * (x - self.m) ** 2).sum(1) + self.bumps * (20 * x).sin().sum(1)
        return torch.stack([torch.zeros_like(f), f], 1)

    def value(self, x: np.ndarray) -> float:
        """Logit f of one row."""
        hill = (self.c.numpy() * (x - self.m.numpy()) ** 2).sum()
        return -9 - hill + self.bumps * np.sin(20 * x).sum()

    def slope(self, x: np.ndarray) -> np.ndarray:
        """Gradient of f at one row."""
        return -2 * self.c.numpy() * (x - self.m.numpy()) + 20 * self.bumps * np.cos(20 * x)


HILL, CLASS_0 = Classifier(Hill(), 2, (3,)), Misclassify(torch.zeros(4, dtype=torch.int64))
BASE = torch.tensor([[0.5, 0.5, 0.5], [0.3, 0.6, 0.4], [0.0, 0.1, 0.9], [1.0, 0.4, 0.5]], dtype=torch.float64)


def run(method, target: Classifier, x: Tensor, goal: Goal, norm: str, eps: float, **params):
    prepared = Watched(target)
    oracle = GradientOracle(prepared, len(x))
    x_adv = method(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, len(x)), **params)
    return x_adv, oracle.ledger, prepared.asked


# --- the algorithm --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 10, 33, 50, 100, 1000])
def test_step_sizes_are_reviewed_at_the_papers_times(steps):
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), w_j = ceil(p_j N), exactly."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    expected = {ceil(share * steps) for share in p[1:]}
    assert checkpoints(steps) == sorted(time for time in expected if time < steps)


def test_the_times_for_100_steps_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def algorithm(net: Hill, x: np.ndarray, start: np.ndarray, norm: str, eps: float, steps: int):
    """Algorithm 1 of Croce & Hein for one row: last point, best point, reasons at the checkpoints."""

    def project(z):
        d = z - x
        if norm == "linf":
            d = np.clip(d, -eps, eps)
        elif np.linalg.norm(d) > eps:
            d = d * eps / np.linalg.norm(d)
        return np.clip(x + d, 0, 1)

    def step(z, eta):
        slope = net.slope(z)
        return project(z + eta * (np.sign(slope) if norm == "linf" else slope / np.linalg.norm(slope)))

    f = net.value
    eta, before, current = 2 * eps, start, step(start, 2 * eps)
    path = [f(start), f(current)]
    best = max(start, current, key=f)
    last, halved, best_then, reasons = 0, False, f(start), []
    for k in range(1, steps):
        if k in checkpoints(steps):
            rises = sum(b > a for a, b in zip(path[last:k], path[last + 1 : k + 1], strict=True))
            few, stuck = rises < 0.75 * (k - last), f(best) <= best_then
            reasons.append((few, stuck, halved))
            halved = few or (stuck and not halved)
            if halved:
                eta, current, path[k] = eta / 2, best, f(best)
            last, best_then = k, f(best)
        z = step(current, eta)
        before, current = current, project(current + 0.75 * (z - current) + 0.25 * (current - before))
        path.append(f(current))
        best = max(best, current, key=f)
    return current, best, reasons


def compare_with_the_algorithm(net: Hill, x: Tensor, norm: str, steps: int) -> set[tuple[bool, bool, bool]]:
    """Assert the same last and best point in each row; returns the reasons met at checkpoints."""
    n, met = len(x), set()
    start = (x + random_in_ball(x, norm, 0.1, rows(0, n))).clamp(0, 1)
    goal = Misclassify(torch.zeros(n, dtype=torch.int64))
    found, _, asked = run(apgd, Classifier(net, 2, (3,)), x, goal, norm, 0.1, steps=steps)
    assert len(asked) == steps + 1
    for i in range(n):
        end, best, reasons = algorithm(net, x[i].numpy(), start[i].numpy(), norm, 0.1, steps)
        torch.testing.assert_close(asked[-1][i], torch.from_numpy(end), rtol=0, atol=1e-7)
        torch.testing.assert_close(found[i], torch.from_numpy(best), rtol=0, atol=1e-7)
        met.update(reasons)
    return met


@NORMS
@pytest.mark.parametrize("steps", [1, 2, 30, 100])
def test_each_row_takes_the_steps_of_the_algorithm(norm, steps):
    """Momentum 0.75, steps of 2 eps that halve at the checkpoints, returns to the best point."""
    compare_with_the_algorithm(Hill(), BASE, norm, steps)


def test_a_step_halves_also_where_the_loss_rises_but_not_above_its_best():
    """Unless it has just been halved. On a bumpy hill both happen without the other reason to halve."""
    x = 0.3 + 0.4 * torch.rand(250, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    met = compare_with_the_algorithm(Hill(bumps=1.0), x, "linf", 50)
    assert {(False, True, False), (False, True, True)} <= met
    assert {few for few, _, _ in met} == {True, False}


@NORMS
def test_the_best_point_asked_is_the_one_returned(norm):
    found, _, asked = run(apgd, HILL, BASE, CLASS_0, norm, 0.1, steps=40)
    values = torch.stack([HILL.net(x)[:, 1] for x in asked])
    torch.testing.assert_close(HILL.net(found)[:, 1], values.amax(0), rtol=0, atol=0)


def test_halving_closes_in_on_a_summit_inside_the_ball():
    """Steps of constant length circle the summit at their own length; halved eight times they cannot."""
    x = BASE[:1]
    found, _, _ = run(apgd, HILL, x, CLASS_0[:1], "l2", 0.2, steps=100)
    assert (HILL.net(found)[0, 1] - (-9)).abs() < 1e-3


# --- strength -------------------------------------------------------------------------------------


@NORMS
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_a_linear_model_loses_what_the_ball_allows(norm, loss):
    """Two classes, margin v x: the largest gain is eps |v|_dual; the steps get short enough to reach it."""
    setting = linear(classes=2)
    weight = setting.target.net.weight
    v = weight[1 - setting.y] - weight[setting.y]
    goal = NeverReached(Misclassify(setting.y))
    x_adv, _, _ = run(apgd, setting.target, setting.x, goal, norm, 0.1, loss=loss)
    gain = ((x_adv - setting.x).flatten(1) * v).sum(1) / (0.1 * size(v, DUAL[norm]))
    assert (gain <= 1 + 1e-9).all()
    assert (gain >= 0.999).all()


@NORMS
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_G2_large_logits_save_no_row(norm, loss, scale):
    hits = []
    for factor in (1.0, scale):
        setting = linear(classes=2, dtype=torch.float32)
        with torch.no_grad():
            setting.target.net.weight *= factor
        x_adv, _, _ = run(
            apgd, setting.target, setting.x, Misclassify(setting.y), norm, 0.2, loss=loss, steps=20
        )
        hits.append(Misclassify(setting.y).reached(setting.target.predict(x_adv)))
    assert hits[0].any()
    assert torch.equal(*hits)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e6])
def test_G2_the_path_by_dlr_does_not_change_with_the_scale_of_the_logits(scale):
    paths = []
    for factor in (1.0, scale):
        setting = linear(classes=5)
        with torch.no_grad():
            setting.target.net.weight *= factor
        goal = NeverReached(Misclassify(setting.y))
        paths.append(run(apgd, setting.target, setting.x, goal, "linf", 0.1, loss="dlr", steps=30)[0])
    torch.testing.assert_close(*paths)


class Decoy(torch.nn.Module):
    """Class 1 is second best everywhere and flat; only class 2, third, can be raised above class 0."""

    def forward(self, x: Tensor) -> Tensor:
        zero = torch.zeros_like(x[:, 0])
        return torch.stack([zero + 1.0, zero + 0.9, 10 * (x[:, 0] - 0.5), zero - 5.0], 1)


def test_targets_find_the_class_that_the_margin_does_not_see():
    """Raising x0 from 0.5 to 0.7 gives class 2 a logit of 2. The margin and the ratio look at class 1,
    which has no slope, as long as class 2 has less than 0.9: starts within 0.2 * (0.9 / 2) may get stuck.
    """
    target, x = Classifier(Decoy(), 4, (2,)), torch.full((200, 2), 0.5, dtype=torch.float64)
    goal = Misclassify(torch.zeros(200, dtype=torch.int64))
    blind, _, _ = run(apgd, target, x, goal, "linf", 0.2, steps=20, loss="margin")
    seeing, _, _ = run(apgd_t, target, x, goal, "linf", 0.2, steps=20)
    assert not goal.reached(target.predict(blind)).all()
    assert goal.reached(target.predict(seeing)).all()


# --- rows, passes, classes ------------------------------------------------------------------------


@pytest.mark.parametrize("method", [apgd, apgd_t])
@NORMS
def test_rows_that_leave_change_no_ones_path(method, norm):
    """Rows leave at different steps and starts; each ends where it ends alone."""
    setting = mlp(n=20)
    params = {"steps": 12, "restarts": 2} if method is apgd else {"steps": 12, "targets": 2}
    goal, eps = Misclassify(setting.y), 0.1
    together, ledger, _ = run(method, setting.target, setting.x, goal, norm, eps, **params)
    assert len(set(ledger.queries.tolist())) > 2
    for i in range(20):
        part = slice(i, i + 1)
        oracle = GradientOracle(setting.target, 1)
        budget = Lp(norm=norm, eps=eps)
        alone = method(oracle, setting.x[part], goal[part], budget, rng=rows(0, [i]), **params)
        torch.testing.assert_close(alone, together[part])
        assert oracle.ledger.queries.tolist() == ledger.queries[part].tolist()


@pytest.mark.parametrize(
    ("method", "param", "values"), [(apgd, "restarts", (1, 2, 4)), (apgd_t, "targets", (1, 2, 3))]
)
def test_S6_more_starts_and_more_targets_never_lower_success(method, param, values):
    setting = mlp(n=40)
    before = torch.zeros(40, dtype=torch.bool)
    for value in values:
        x_adv, _, _ = run(
            method, setting.target, setting.x, Misclassify(setting.y), "l2", 0.1, steps=10, **{param: value}
        )
        now = Misclassify(setting.y).reached(setting.target.predict(x_adv))
        assert (now | ~before).all()
        before = now
    assert before.any()


@pytest.mark.parametrize("restarts", [1, 3])
def test_G7_a_row_that_stands_costs_a_pass_each_way_per_step_and_one_query_more(restarts):
    setting = never_fooled()
    _, ledger, _ = run(
        apgd, setting.target, setting.x, Misclassify(setting.y), "linf", 0.1, steps=7, restarts=restarts
    )
    assert ledger.gradients.tolist() == [7 * restarts] * 4
    assert ledger.queries.tolist() == [8 * restarts] * 4


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 12])
def test_G4_every_number_of_classes_has_its_targets(classes):
    """At most nine, at most all but one; one query ranks them."""
    setting = never_fooled(classes=classes)
    _, ledger, _ = run(apgd_t, setting.target, setting.x, Misclassify(setting.y), "linf", 0.1, steps=3)
    targets = min(9, classes - 1)
    assert ledger.gradients.tolist() == [3 * targets] * 4
    assert ledger.queries.tolist() == [1 + 4 * targets] * 4


def test_rows_that_are_wrong_already_cost_one_query_of_the_targeted_attack():
    setting = linear(classes=3)
    y = (setting.y + 1) % 3
    x_adv, ledger, _ = run(apgd_t, setting.target, setting.x, Misclassify(y), "linf", 0.1, steps=3)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(1).all()


def test_G5_a_class_that_is_wished_for_is_reached_and_not_another():
    """Linear, so class t is in the ball where t's margin over every other class can be made positive."""
    setting = linear(classes=4)
    t = (setting.y + 1) % 4
    for method in (apgd, apgd_t):
        x_adv, ledger, _ = run(method, setting.target, setting.x, Become(t), "linf", 0.25, steps=50)
        assert torch.equal(setting.target.predict(x_adv).argmax(1), t)
        assert ledger.queries.max() <= 52
