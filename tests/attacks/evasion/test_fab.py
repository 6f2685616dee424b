"""FAB and FAB-T against steps worked out by hand and linear programs."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

from casemate.attacks.evasion.fab import fab, fab_t
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.ops.norms import dual_size, size
from casemate.ops.rng import rows
from conformance.models import altered, linear, mlp, never_fooled

NORMS = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
BOTH = pytest.mark.parametrize("attack", [fab, fab_t])


def affine(weight: Tensor, bias: Tensor) -> Classifier:
    net = nn.Linear(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        net.weight.copy_(weight)
        net.bias.copy_(bias)
    return Classifier(net, len(weight), (weight.shape[1],))


def run(
    attack,
    target: Classifier,
    x: Tensor,
    norm: str,
    eps: float = float("inf"),
    goal: Goal | None = None,
    **params,
):
    oracle = GradientOracle(target, len(x))
    goal = goal or Misclassify(target.predict(x).argmax(1))
    return attack(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, len(x)), **params), oracle.ledger


# four classes around grey inputs, the boundaries within 0.02 to 0.2 of them
GENERATOR = torch.Generator().manual_seed(7)
GREY = 0.5 + 0.02 * torch.randn(12, 6, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(4, 6, generator=GENERATOR, dtype=torch.float64)
FOUR = affine(WEIGHT, -WEIGHT.sum(1) / 2 + 0.05 * torch.randn(4, generator=GENERATOR, dtype=torch.float64))


def distances(target: Classifier, x: Tensor, norm: str) -> Tensor:
    """Distance to each class of an affine model without a box, (N, K): |z_y - z_t| / |W_t - W_y|_dual."""
    logits, weight = target.predict(x), target.net.weight.detach()
    y = logits.argmax(1)
    slopes = weight[None] - weight[y][:, None]
    far = (logits.amax(1, keepdim=True) - logits) / torch.stack([dual_size(row, norm) for row in slopes])
    return far.scatter(1, y[:, None], float("inf"))


@BOTH
@NORMS
def test_the_first_step_overshoots_the_nearest_boundary_by_5_percent(attack, norm):
    """x and the iterate are one, so both projections are the same: eta times the distance."""
    x_adv, _ = run(attack, FOUR, GREY, norm, steps=1)
    torch.testing.assert_close(size(x_adv - GREY, norm), 1.05 * distances(FOUR, GREY, norm).amin(1))


@BOTH
@NORMS
def test_the_second_step_by_hand(attack, norm):
    """Two classes at distance 1: the first crossing at 1.05 goes back to 0.945.

    From there the plane is 0.055 away, from x it is 1 away, so alpha = 0.055 / 1.055 = 0.0521 and
    the next point is (0.945 + 1.05 * 0.055) * (1 - alpha) + 1.05 * alpha = 1.005213.
    """
    two = affine(WEIGHT[:2], FOUR.net.bias.detach()[:2])
    alpha = 0.055 / 1.055
    x_adv, _ = run(attack, two, GREY, norm, steps=2)
    ratio = size(x_adv - GREY, norm) / distances(two, GREY, norm).amin(1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.00275 * (1 - alpha) + 1.05 * alpha))


@BOTH
@NORMS
def test_an_iterate_beyond_the_boundary_steps_back_to_it(attack, norm):
    """Two classes at distance 1, eta = 1.5, beta = 1, so that a crossing stays where it is.

    From 1.5 the plane is 0.5 behind: 0.9 * (1.5 - 0.75) + 0.1 * 1.5 = 0.825, with alpha at its cap.
    From there 0.9 * (0.825 + 1.5 * 0.175) + 0.1 * 1.5 = 1.12875, the nearest of the three.
    """
    two = affine(WEIGHT[:2], FOUR.net.bias.detach()[:2])
    x_adv, _ = run(attack, two, GREY, norm, steps=3, eta=1.5, beta=1.0)
    ratio = size(x_adv - GREY, norm) / distances(two, GREY, norm).amin(1)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1.12875))


@BOTH
@NORMS
def test_the_nearest_example_of_an_affine_model_is_found(attack, norm):
    """The walk repeats itself: 1.05, then ever again the 1.005213 of the second step."""
    x_adv, _ = run(attack, FOUR, GREY, norm, steps=20)
    ratio = size(x_adv - GREY, norm) / distances(FOUR, GREY, norm).amin(1)
    assert (FOUR.predict(x_adv).argmax(1) != FOUR.predict(GREY).argmax(1)).all()
    assert (ratio >= 1).all()
    assert (ratio <= 1.00522).all()


def least(x: np.ndarray, slope: np.ndarray, gap: float, norm: str) -> float:
    """Distance of x to the half space <slope, delta> >= gap inside the box, by a program."""
    n, box = len(x), list(zip(-x, 1 - x, strict=True))
    if norm == "l2":
        found = optimize.minimize(
            lambda d: d @ d, np.clip(slope, -x, 1 - x), jac=lambda d: 2 * d, bounds=box, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda d: slope @ d - gap, "jac": lambda d: slope},
            options={"ftol": 1e-14},
        )  # fmt: skip
        return float(np.sqrt(found.fun)) if found.success else float("inf")
    wide = n if norm == "l1" else 1  # bounds on each |delta_i|, or one on all
    over = np.eye(n) if norm == "l1" else np.ones((n, 1))
    found = optimize.linprog(
        np.append(np.zeros(n), np.ones(wide)), b_ub=np.append(np.zeros(2 * n), -gap),
        A_ub=np.block([[np.eye(n), -over], [-np.eye(n), -over], [-slope[None], np.zeros((1, wide))]]),
        bounds=box + [(0, None)] * wide,
    )  # fmt: skip
    return float(found.fun) if found.success else float("inf")


@BOTH
@NORMS
def test_where_the_box_binds_the_nearest_example_agrees_with_a_program(attack, norm):
    """Three values, one of them at 0 or 1 and one near an edge; four classes.

    The set where class t beats y is a half space, and the nearest example is the nearest point of any
    of them inside the box; the walk ends within 0.6% of it, as without a box.
    """
    generator = torch.Generator().manual_seed(9)
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64)
    x[:, 0], x[:, 1] = x[:, 0].round(), 0.03 + 0.94 * x[:, 1].round()
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    target = affine(weight, torch.tensor([0.2, 0.0, 0.1, -0.1]) - weight.sum(1) / 2)
    logits = target.predict(x)
    y = logits.argmax(1)
    expected = []
    for row, z, own in zip(x, logits, y.tolist(), strict=True):
        far = [
            least(row.numpy(), (weight[t] - weight[own]).numpy(), float(z[own] - z[t]), norm)
            for t in range(4) if t != own
        ]  # fmt: skip
        expected.append(min(far))
    x_adv, _ = run(attack, target, x, norm, steps=60)
    assert (target.predict(x_adv).argmax(1) != y).all()
    ratio = size(x_adv - x, norm) / torch.tensor(expected, dtype=torch.float64)
    assert (ratio >= 1 - 1e-6).all()
    assert (ratio <= 1.006).all(), ratio


@BOTH
def test_with_a_finite_radius_a_row_leaves_as_soon_as_the_ball_holds_an_example(attack):
    """The first step lands at 1.05 distances: rows with a larger radius cost one step, the rest all."""
    far = distances(FOUR, GREY, "l2").amin(1)
    eps = far.sort().values[5:7].mean().item()
    near = 1.05 * far <= eps
    x_adv, ledger = run(attack, FOUR, GREY, "l2", eps=eps, steps=30)
    assert 0 < near.sum() < 12
    assert ledger.queries[near].eq(3).all(), "the clean point, a plane, a judgement"
    never = far > eps
    assert torch.equal(x_adv[never], GREY[never])
    fooled = FOUR.predict(x_adv).argmax(1) != FOUR.predict(GREY).argmax(1)
    assert torch.equal(fooled, 1.001 * far <= eps)


def test_fab_t_runs_towards_the_likeliest_classes():
    """With one target only the class with the second largest logit is tried, not the nearest."""
    x_adv, _ = run(fab_t, FOUR, GREY, "l2", steps=1, targets=1)
    logits = FOUR.predict(GREY)
    second = logits.topk(2, 1).indices[:, 1:]
    expected = 1.05 * distances(FOUR, GREY, "l2").gather(1, second).squeeze(1)
    moved = size(x_adv - GREY, "l2")
    # a step that crosses no boundary of the nearest class first ends as computed
    torch.testing.assert_close(moved, expected)
    assert (second.squeeze(1) != distances(FOUR, GREY, "l2").argmin(1)).any(), "both would be the same"


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@NORMS
def test_G4_G7_a_row_that_stands_costs_what_is_declared(norm, classes):
    """Clean point, then per step a plane and a judgement; fab takes a backward pass per other class."""
    setting = never_fooled(classes=classes)
    x_adv, ledger = run(fab, setting.target, setting.x, norm, steps=3)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(1 + 2 * 3).all()
    assert ledger.gradients.eq(3 * (classes - 1)).all()
    targets = min(9, classes - 1)
    x_adv, ledger = run(fab_t, setting.target, setting.x, norm, steps=3)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(1 + 2 * 3 * targets).all()
    assert ledger.gradients.eq(3 * targets).all()


@BOTH
@NORMS
def test_G1_G2_neither_shift_nor_scale_of_the_logits_matters(attack, norm):
    setting = linear()
    plain, _ = run(attack, setting.target, setting.x, norm, steps=15)
    for alter in (lambda out: out - 50, lambda out: 2.0**20 * out, lambda out: 2.0**-20 * out):
        changed, _ = run(attack, altered(setting, alter).target, setting.x, norm, steps=15)
        torch.testing.assert_close(size(changed - setting.x, norm), size(plain - setting.x, norm))


@BOTH
@pytest.mark.parametrize(("norm", "rows_found"), [("l2", 12), ("l1", 12), ("linf", 9)])
def test_G5_a_target_class_is_reached_and_not_another(attack, norm, rows_found):
    """Where a third class stands between, linf walks may go round in circles between two boundaries."""
    t = (FOUR.predict(GREY).argmax(1) + 2) % 4
    x_adv, _ = run(attack, FOUR, GREY, norm, goal=Become(t), steps=40)
    found = FOUR.predict(x_adv).argmax(1) == t
    assert found.sum() >= rows_found
    assert torch.equal(x_adv[~found], GREY[~found])
    least_far = distances(FOUR, GREY, norm).gather(1, t[:, None]).squeeze(1)
    assert (size(x_adv - GREY, norm) >= least_far)[found].all()


@BOTH
def test_S2_a_row_takes_the_same_path_alone(attack):
    setting = mlp()
    together, _ = run(attack, setting.target, setting.x, "l2", steps=20)
    for i in range(len(setting.x)):
        alone, _ = run(attack, setting.target, setting.x[i : i + 1], "l2", steps=20)
        torch.testing.assert_close(alone[0], together[i])


@BOTH
def test_S3_a_row_that_is_already_wrong_costs_one_query(attack):
    wrong = Misclassify((FOUR.predict(GREY).argmax(1) + 1) % 4)
    x_adv, ledger = run(attack, FOUR, GREY, "l2", goal=wrong)
    assert torch.equal(x_adv, GREY)
    assert ledger.queries.eq(1).all()


@BOTH
@NORMS
def test_S3_a_model_without_slope_leaves_rows_as_they_are(attack, norm):
    flat = affine(torch.zeros(3, 6), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(run(attack, flat, GREY, norm, steps=5)[0], GREY)


@BOTH
@NORMS
def test_S6_more_steps_and_more_restarts_are_never_farther(attack, norm):
    """A longer walk starts with the shorter one, and restarts come after the first walk."""
    setting = mlp()
    sizes = []
    for steps, restarts in ((2, 1), (5, 1), (15, 1), (15, 3)):
        x_adv, _ = run(attack, setting.target, setting.x, norm, steps=steps, restarts=restarts)
        found = setting.target.predict(x_adv).argmax(1) != setting.y
        sizes.append(torch.where(found, size(x_adv - setting.x, norm), float("inf")))
    for few, many in pairwise(sizes):
        assert (many <= few).all()
    assert sizes[-1].isfinite().all()


@BOTH
def test_a_crossing_that_rounding_may_take_back_is_no_example(attack):
    """With eta = 1 a step ends on the boundary up to its last bits; ten of them are asked for."""
    x_adv, _ = run(attack, FOUR, GREY, "l2", steps=10, eta=1.0)
    logits, y = FOUR.predict(x_adv), FOUR.predict(GREY).argmax(1)
    margin = logits.scatter(1, y[:, None], float("-inf")).amax(1) - logits.gather(1, y[:, None]).squeeze(1)
    clear = margin > 10 * torch.finfo(torch.float64).eps * logits.abs().amax(1)
    assert (clear | (x_adv == GREY).all(1)).all()
