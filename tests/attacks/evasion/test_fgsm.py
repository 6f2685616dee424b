"""FGSM against the optimum of linear models."""

import pytest
import torch

from casemate.attacks.evasion.fgsm import fgsm
from casemate.core.target import GradientOracle
from casemate.core.threat import Become, Goal, Lp, Misclassify, NeverReached
from casemate.ops.norms import linear_optimum, size
from casemate.ops.rng import rows
from conformance.models import linear, never_fooled

NORMS = pytest.mark.parametrize(("norm", "dual"), [("linf", "l1"), ("l2", "l2"), ("l1", "linf")])


def run(setting, goal: Goal, norm: str, eps: float, x: torch.Tensor | None = None, **params):
    x = setting.x if x is None else x
    oracle = GradientOracle(setting.target, len(x))
    x_adv = fgsm(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, len(x)), **params)
    return x_adv, oracle.ledger


@NORMS
def test_one_step_is_the_optimum_of_a_linear_model(norm, dual):
    """Two classes, margin v x with v = w_other - w_y: no point of the ball gains more than eps |v|_dual.

    All values lie in [0.25, 0.75], so a step of 0.2 does not touch the box.
    """
    setting = linear(classes=2)
    weight = setting.target.net.weight
    v = weight[1 - setting.y] - weight[setting.y]
    x_adv, _ = run(setting, NeverReached(Misclassify(setting.y)), norm, 0.2)
    gain = ((x_adv - setting.x).flatten(1) * v).sum(1)
    torch.testing.assert_close(gain, 0.2 * size(v, dual))


@NORMS
def test_a_target_class_is_approached_as_far_as_the_ball_allows(norm, dual):
    setting = linear(classes=2)
    weight = setting.target.net.weight
    v = weight[1 - setting.y] - weight[setting.y]
    x_adv, _ = run(setting, Become(1 - setting.y), norm, 0.02)
    gain = ((x_adv - setting.x).flatten(1) * v).sum(1)
    torch.testing.assert_close(gain, 0.02 * size(v, dual))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_N6_no_radius_is_spent_on_pixels_that_cannot_move(norm):
    """Black and white pixels: half of them sit at the edge that the gradient pushes against.

    The gain is the optimum over ball and box, which clipping after the step misses.
    """
    setting = linear(classes=2)
    x = (setting.x > 0.5).double()
    y = setting.target.predict(x).argmax(1)
    weight = setting.target.net.weight
    v = (weight[1 - y] - weight[y]).view_as(x)
    eps = 0.3 if norm == "linf" else 1.5
    x_adv, _ = run(setting, NeverReached(Misclassify(y)), norm, eps, x)
    best = linear_optimum(x, v, norm, eps)
    torch.testing.assert_close(((x_adv - x) * v).flatten(1).sum(1), ((best - x) * v).flatten(1).sum(1))


def test_cross_entropy_leaves_the_class_for_all_others_and_the_margin_for_the_best():
    """Slope of the log-odds: sum of q_k w_k over the others (q their softmax) minus w_y."""
    setting = linear(classes=4)
    weight, z = setting.target.net.weight.detach(), setting.target.predict(setting.x)
    rest = z.scatter(1, setting.y[:, None], float("-inf"))
    slopes = {
        "ce": rest.softmax(1) @ weight - weight[setting.y],
        "margin": weight[rest.argmax(1)] - weight[setting.y],
    }
    for loss, slope in slopes.items():
        x_adv, _ = run(setting, NeverReached(Misclassify(setting.y)), "linf", 0.1, loss=loss)
        expected = setting.x + 0.1 * slope.sign().view_as(setting.x)
        torch.testing.assert_close(x_adv, expected)


@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_G2_large_logits_do_not_stop_the_step(scale):
    """Cross-entropy's own gradient is exactly 0 in float32 once a margin exceeds about 104."""
    plain, scaled = linear(classes=2, dtype=torch.float32), linear(classes=2, dtype=torch.float32)
    with torch.no_grad():
        scaled.target.net.weight *= scale
    found = [run(s, Misclassify(s.y), "linf", 0.2)[0] for s in (plain, scaled)]
    torch.testing.assert_close(*found)
    assert (found[0] != plain.x).all()


def test_a_row_that_reaches_the_goal_as_it_is_stays_as_it_is():
    setting = linear(classes=3)
    y = setting.y.clone()
    y[::2] = (y[::2] + 1) % 3
    x_adv, _ = run(setting, Misclassify(y), "linf", 0.1)
    assert torch.equal(x_adv[::2], setting.x[::2])
    assert (x_adv[1::2] != setting.x[1::2]).any()


def test_G7_a_row_costs_one_pass_each_way():
    setting = never_fooled()
    _, ledger = run(setting, Misclassify(setting.y), "linf", 0.1)
    assert ledger.queries.tolist() == ledger.gradients.tolist() == [1, 1, 1, 1]
