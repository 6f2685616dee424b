"""l1-APGD against the optimum of linear models, and its balls and steps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from casemate.attacks.evasion.apgd_l1 import apgd_l1, apgd_l1_t, phases
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.core.threat import Become, Goal, Lp, Misclassify, NeverReached
from casemate.ops.norms import linear_optimum, size
from casemate.ops.rng import rows
from conformance.models import linear, mlp, never_fooled

BOTH = pytest.mark.parametrize("method", [apgd_l1, apgd_l1_t])


class Watched(Prepared):
    """A prepared target that keeps what it is asked."""

    def __init__(self, target: Classifier) -> None:
        super().__init__(target)
        self.asked: list[Tensor] = []

    def exact(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return super().exact(x)


def run(method, target: Classifier, x: Tensor, goal: Goal, eps: float, **params):
    prepared = Watched(target)
    oracle = GradientOracle(prepared, len(x))
    x_adv = method(oracle, x, goal, Lp(norm="l1", eps=eps), rng=rows(0, len(x)), **params)
    return x_adv, oracle.ledger, prepared.asked


# --- strength -------------------------------------------------------------------------------------


@pytest.mark.parametrize("edges", [False, True], ids=["grey", "black-and-white"])
@pytest.mark.parametrize("eps", [0.3, 2.5])
def test_N6_a_linear_model_loses_what_ball_and_box_allow(edges, eps):
    """The optimum moves the values with the largest slopes to their edges until eps is spent.

    Steps do not get shorter than eps / 10, so about that share may lie on other values at the end.
    """
    setting = linear(classes=2)
    x = (setting.x > 0.5).double() if edges else setting.x
    y = setting.target.predict(x).argmax(1)
    weight = setting.target.net.weight
    v = (weight[1 - y] - weight[y]).view_as(x)
    x_adv, _, _ = run(apgd_l1, setting.target, x, NeverReached(Misclassify(y)), eps)
    best = linear_optimum(x, v, "l1", eps)
    gain = ((x_adv - x) * v).flatten(1).sum(1) / ((best - x) * v).flatten(1).sum(1)
    assert (gain <= 1 + 1e-9).all()
    assert (gain >= 0.9).all()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_G2_large_logits_save_no_row(loss, scale):
    hits = []
    for factor in (1.0, scale):
        setting = linear(classes=2, dtype=torch.float32)
        with torch.no_grad():
            setting.target.net.weight *= factor
        x_adv, _, _ = run(
            apgd_l1, setting.target, setting.x, Misclassify(setting.y), 1.5, loss=loss, steps=20
        )
        hits.append(Misclassify(setting.y).reached(setting.target.predict(x_adv)))
    assert hits[0].any()
    assert torch.equal(*hits)


# --- balls and steps ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "shares"),
    [(100, [30, 30, 40]), (10, [3, 3, 4]), (25, [8, 8, 9]), (4, [1, 1, 2]), (2, [0, 0, 2]), (1, [0, 0, 1])],
)
def test_steps_are_shared_out_30_30_40(steps, shares):
    assert phases(steps) == shares


def test_the_search_comes_in_from_three_times_the_radius():
    """30 steps and a last look in the ball of 3 eps, as many in that of 2 eps, 40 and one in that of eps."""
    setting = never_fooled()
    _, _, asked = run(apgd_l1, setting.target, setting.x, Misclassify(setting.y), 0.5)
    radii = [3] * 31 + [2] * 31 + [1] * 41
    assert len(asked) == len(radii)
    for x_adv, radius in zip(asked, radii, strict=True):
        assert (size(x_adv - setting.x, "l1") <= radius * 0.5 + 1e-9).all()
    assert (size(asked[30] - setting.x, "l1") > 1.01).all(), "the larger balls are not used"


class Hill(torch.nn.Module):
    """Logits (0, f), f = -20 - sum of c_i (x_i - m_i)^2 + sum of sin(9 x_i) / 9: class 0 in the whole box."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.c = 8 * torch.rand(12, generator=generator, dtype=torch.float64)
        self.m = torch.rand(12, generator=generator, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        f = -20 - (self.c * (x - self.m) ** 2).sum(1) + (9 * x).sin().sum(1) / 9
        return torch.stack([torch.zeros_like(f), f], 1)

    def slope(self, x: np.ndarray) -> np.ndarray:
        """Gradient of f at one row."""
        return -2 * self.c.numpy() * (x - self.m.numpy()) + np.cos(9 * x)


def nearest(z: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """Project one row onto l1 ball and box: sizes clip(|d| - t, 0, room), t by halving an interval."""
    d = z - x
    room = np.where(d > 0, 1 - x, x)
    low, high = 0.0, np.abs(d).max()
    if np.minimum(np.abs(d), room).sum() <= eps:
        return np.clip(z, 0, 1)
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if np.clip(np.abs(d) - t, 0, room).sum() > eps else (low, t)
    return x + np.clip(np.abs(d) - high, 0, room) * np.sign(d)


def algorithm(net: Hill, x: np.ndarray, z: np.ndarray, eps: float, steps: int, every: int):
    """l1-APGD in one ball for one row: best point, and the step sizes met."""

    def f(z):
        return float(net(torch.from_numpy(z)[None])[0, 1])

    def count(z):
        return int((np.abs(z - x) > np.finfo(float).eps).sum())

    now = best = nearest(z, x, eps)
    eta, changed, sizes = eps, count(now), []
    slope = net.slope(now)
    for k in range(steps):
        if k and k % every == 0:
            if count(best) < 0.95 * changed:
                eta, now, slope = eps, best, net.slope(best)
            else:
                eta = max(eta / 1.5, eps / 10)
            changed = count(best)
            sizes.append(eta / eps)
        held = ((now <= 0) & (slope < 0)) | ((now >= 1) & (slope > 0))
        slope = np.where(held, 0, slope)
        most = np.argsort(-np.abs(slope))[: max(1, -(-changed * 2 // 3))]
        step = np.zeros_like(x)
        step[most] = np.sign(slope[most])
        now = nearest(now + eta * step / np.abs(step).sum(), x, eps)
        slope = net.slope(now)
        best = max(best, now, key=f)
    return best, sizes


def test_each_row_takes_the_steps_of_the_algorithm():
    """Sparsity 2/3 of the best point's; where it falls by 5 % steps start again at eps, else they shrink.

    As many rows as it takes to meet the longest and the shortest step in the last ball.
    """
    net, n = Hill(), 30
    x = torch.rand(n, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64).mul(1.4).sub(0.2)
    x = x.clamp(0, 1)
    goal = Misclassify(torch.zeros(n, dtype=torch.int64))
    found, _, _ = run(apgd_l1, Classifier(net, 2, (12,)), x, goal, 0.7, steps=60)
    noise, met = rows(0, n).normal(12).double(), []
    for i in range(n):
        best = (x[i] + noise[i]).numpy()
        for radius, steps in zip((2.1, 1.4, 0.7), (18, 18, 24), strict=True):
            best, sizes = algorithm(net, x[i].numpy(), best, radius, steps, every=1)
        met += sizes
        torch.testing.assert_close(found[i], torch.from_numpy(best), rtol=0, atol=1e-6)
    assert {1.0, 0.1} <= {round(size, 6) for size in met}


def test_what_succeeds_in_a_larger_ball_only_is_no_success():
    """Two classes split at x0 = 0.5; from 0.2 with eps 0.2 only the balls of 3 eps and 2 eps cross."""

    class Edge(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)

    target, x = Classifier(Edge(), 2, (4,)), torch.full((6, 4), 0.2, dtype=torch.float64)
    goal = Misclassify(torch.zeros(6, dtype=torch.int64))
    x_adv, ledger, asked = run(apgd_l1, target, x, goal, 0.2)
    assert goal.reached(target.predict(asked[30])).all()
    assert not goal.reached(target.predict(x_adv)).any()
    assert (size(x_adv - x, "l1") <= 0.2 + 1e-9).all()
    assert ledger.gradients.tolist() == [100] * 6


def test_a_first_step_moves_two_thirds_of_what_the_start_changed():
    """One step in all, so in the ball that counts: ceil(changed / 1.5) values, evenly, by eps in all."""
    setting = linear(classes=2)
    goal = NeverReached(Misclassify(setting.y))
    _, _, asked = run(apgd_l1, setting.target, setting.x, goal, 0.4, steps=1)
    start, end = (a.flatten(1) for a in asked)
    weight = setting.target.net.weight.detach()
    v = weight[1 - setting.y] - weight[setting.y]
    for i in range(len(start)):
        x = setting.x[i].flatten()
        count = -(-int((start[i] != x).sum()) * 2 // 3)
        most = v[i].abs().argsort(descending=True)[:count]
        step = torch.zeros(16, dtype=torch.float64)
        step[most] = 0.4 / count * v[i][most].sign()
        # projection by bisection on the threshold
        delta = start[i] + step - x
        low, high = 0.0, 1.0
        for _ in range(100):
            t = (low + high) / 2
            low, high = (t, high) if (delta.abs() - t).clamp(min=0).sum() > 0.4 else (low, t)
        expected = x + (delta.abs() - high).clamp(min=0) * delta.sign()
        torch.testing.assert_close(end[i], expected)


def test_the_best_point_of_the_ball_that_counts_is_returned():
    setting = never_fooled()
    goal = Misclassify(setting.y)
    x_adv, _, asked = run(apgd_l1, setting.target, setting.x, goal, 0.5)
    values = torch.stack([goal.loss(setting.target.predict(a)) for a in asked[62:]])
    torch.testing.assert_close(goal.loss(setting.target.predict(x_adv)), values.amax(0), rtol=0, atol=1e-9)


# --- rows and passes ------------------------------------------------------------------------------


@BOTH
def test_rows_that_leave_change_no_ones_path(method):
    setting = mlp(n=20)
    goal, params = Misclassify(setting.y), {"steps": 10} if method is apgd_l1 else {"steps": 10, "targets": 2}
    together, ledger, _ = run(method, setting.target, setting.x, goal, 0.15, **params)
    assert len(set(ledger.queries.tolist())) > 1
    for i in range(20):
        part = slice(i, i + 1)
        oracle = GradientOracle(setting.target, 1)
        budget = Lp(norm="l1", eps=0.15)
        alone = method(oracle, setting.x[part], goal[part], budget, rng=rows(0, [i]), **params)
        torch.testing.assert_close(alone, together[part])
        assert oracle.ledger.queries.tolist() == ledger.queries[part].tolist()


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_G7_a_row_that_stands_costs_what_is_declared(steps):
    """A pass each way per step, and a query for the last point in each ball that has steps."""
    setting = never_fooled()
    _, ledger, _ = run(apgd_l1, setting.target, setting.x, Misclassify(setting.y), 0.5, steps=steps)
    assert ledger.gradients.tolist() == [steps] * 4
    assert ledger.queries.tolist() == [steps + (3 if steps > 2 else 1)] * 4


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_G4_every_number_of_classes_has_its_targets(classes):
    setting = never_fooled(classes=classes)
    _, ledger, _ = run(apgd_l1_t, setting.target, setting.x, Misclassify(setting.y), 0.5, steps=4)
    targets = min(9, classes - 1)
    assert ledger.gradients.tolist() == [4 * targets] * 4
    assert ledger.queries.tolist() == [1 + 7 * targets] * 4


@BOTH
def test_G5_a_class_that_is_wished_for_is_reached_and_not_another(method):
    setting = linear(classes=4)
    t = (setting.y + 1) % 4
    x_adv, _, _ = run(method, setting.target, setting.x, Become(t), 3.5, steps=50)
    assert torch.equal(setting.target.predict(x_adv).argmax(1), t)
