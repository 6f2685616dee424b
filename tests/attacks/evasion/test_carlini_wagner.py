"""Carlini and Wagner's attack against closed forms of affine models."""

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.carlini_wagner import carlini_wagner
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conformance.models import altered, linear, mlp, never_fooled

NEAREST = Lp(norm="l2", eps=float("inf"))


def affine(weight: list[list[float]], bias: list[float]) -> Classifier:
    net = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        net.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return Classifier(net, len(weight), (len(weight[0]),))


def run(target: Classifier, x: Tensor, budget: Lp = NEAREST, goal: Goal | None = None, **params):
    oracle = GradientOracle(target, len(x))
    goal = goal or Misclassify(target.predict(x).argmax(1))
    return carlini_wagner(oracle, x, goal, budget, rng=rows(0, len(x)), **params), oracle.ledger


# logits 0 and 3 x0 + 4 x1 - 3.5 - gap: class 1 is gap / 5 from the middle of the square
def at_distance(distance: float, scale: float = 1.0) -> Classifier:
    return affine([[0.0, 0.0], [3 * scale, 4 * scale]], [0.0, -(3.5 + 5 * distance) * scale])


MIDDLE = torch.tensor([[0.5, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("distance", [0.002, 0.02, 0.2, 0.45])
def test_the_nearest_example_is_found_at_every_scale_of_distance(distance):
    """Without the units of the row the first weight would be off by the square of the distance: 50,000 times."""
    x_adv, _ = run(at_distance(distance), MIDDLE)
    found = size(x_adv - MIDDLE, "l2").item()
    assert distance < found < 1.03 * distance


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e3])
def test_the_search_finds_the_weight_from_below_and_from_above(weight):
    """On an affine model at distance D the objective is d^2 + weight * D^2 * (1 - d / D) before the boundary.

    It is least at d = weight * D / 2: a weight below 2 ends short of the boundary, a much larger one
    swings far behind it.
    """
    x_adv, _ = run(at_distance(0.2), MIDDLE, weight=weight, searches=9)
    assert 0.2 < size(x_adv - MIDDLE, "l2").item() < 1.05 * 0.2
    if weight < 1:
        assert torch.equal(run(at_distance(0.2), MIDDLE, weight=weight, searches=1)[0], MIDDLE)


def test_the_steps_shrink_so_that_the_boundary_is_met_closely():
    """Two classes, 64 values: steps of one size end 1.5% to 6% beyond the closed form |gap| / |w|."""
    setting = linear(2, shape=(1, 8, 8))
    weight = setting.target.net.weight.detach()
    gap = (setting.target.predict(setting.x) @ setting.x.new_tensor([1, -1])).abs()
    x_adv, _ = run(setting.target, setting.x)
    ratio = size(x_adv - setting.x, "l2") * (weight[0] - weight[1]).norm() / gap
    assert (ratio > 1).all()
    assert (ratio < 1.01).all(), ratio


def test_a_value_that_left_the_box_is_drawn_back():
    """x0 matters a thousand times less than x1 but Adam's first steps move both alike, x0 past its edge.

    There the clipped value has no slope; the distance, taken before clipping, brings it back.
    """
    target = affine([[0.0, 0.0], [1e-3, 1.0]], [0.0, -0.7])
    x = torch.tensor([[0.97, 0.5]], dtype=torch.float64)
    x_adv, _ = run(target, x, searches=1, step_size=0.5)
    assert abs(x_adv[0, 0].item() - 0.97) < 0.005
    assert target.predict(x_adv).argmax(1).item() == 1


def test_N6_pixels_that_are_exactly_black_or_white_move():
    """At the corner (1, 0) class 1 is reached by x1 - x0 > -0.5, that is 0.25 each way: 0.3536 in l2.

    In the paper's space both values lie at infinity and never move.
    """
    target = affine([[0.0, 0.0], [-1.0, 1.0]], [0.0, 0.5])
    corner = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    x_adv, _ = run(target, corner)
    assert 0.125**0.5 < size(x_adv - corner, "l2").item() < 1.02 * 0.125**0.5


def test_N6_values_that_must_leave_the_box_stay_at_its_edge():
    """Logits 0 and 3 x0 + x1 - 3.4 at (1, 0): x0 cannot rise, so x1 takes all of the gap of 0.4."""
    target = affine([[0.0, 0.0], [3.0, 1.0]], [0.0, -3.4])
    corner = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    x_adv, _ = run(target, corner)
    assert x_adv[0, 0].item() > 0.99
    assert 0.4 < size(x_adv - corner, "l2").item() < 1.03 * 0.4


def test_G1_a_shift_of_all_logits_changes_nothing():
    setting = linear()
    plain, _ = run(setting.target, setting.x, steps=40, searches=3)
    for shift in (-50.0, 50.0):
        moved = altered(setting, lambda out, shift=shift: out + shift)
        torch.testing.assert_close(run(moved.target, setting.x, steps=40, searches=3)[0], plain)


@pytest.mark.parametrize("scale", [2.0**20, 2.0**-20])
def test_G2_the_scale_of_the_logits_changes_nothing(scale):
    setting = linear()
    plain, _ = run(setting.target, setting.x, steps=40, searches=3)
    scaled = altered(setting, lambda out: scale * out)
    torch.testing.assert_close(run(scaled.target, setting.x, steps=40, searches=3)[0], plain)


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
def test_G4_G7_a_row_that_stands_costs_what_is_declared(classes):
    setting = never_fooled(classes=classes)
    x_adv, ledger = run(setting.target, setting.x, steps=4, searches=3)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(1 + 3 * 4).all()
    assert ledger.gradients.eq(1 + 3 * 4).all()


def test_G5_a_target_class_is_reached_at_its_own_distance():
    """Logits x0, 0.6 and 0.9 at x0 = 0.95: class 2 is 0.05 away."""
    target = affine([[1.0], [0.0], [0.0]], [0.0, 0.6, 0.9])
    x = torch.tensor([[0.95]], dtype=torch.float64)
    x_adv, _ = run(target, x, goal=Become(torch.tensor([2])))
    assert 0.05 < (x - x_adv).item() < 1.03 * 0.05


def test_the_confidence_asks_for_a_share_of_the_clean_margin():
    """With confidence 0.5 an example is half as far behind the boundary as x is before it."""
    x_adv, _ = run(at_distance(0.2), MIDDLE, confidence=0.5)
    assert 0.3 < size(x_adv - MIDDLE, "l2").item() < 1.03 * 0.3


def test_the_confidence_holds_for_rows_that_are_already_wrong():
    """x is 0.1 behind the boundary; twice its margin is another 0.1 farther."""
    wrong = Misclassify(torch.tensor([1]))
    x_adv, _ = run(at_distance(0.1), MIDDLE, goal=wrong, confidence=2.0)
    assert 0.1 <= size(x_adv - MIDDLE, "l2").item() < 1.03 * 0.1
    assert torch.equal(run(at_distance(0.1), MIDDLE, goal=wrong, confidence=0.9)[0], MIDDLE)


def test_with_a_finite_radius_a_row_leaves_as_soon_as_the_ball_holds_an_example():
    x = MIDDLE.repeat(2, 1)
    x[1] = 0.2  # 0.42 farther from the boundary
    x_adv, ledger = run(at_distance(0.2), x, Lp(norm="l2", eps=0.3))
    assert size(x_adv - x, "l2")[0].item() <= 0.3
    assert at_distance(0.2).predict(x_adv).argmax(1).tolist() == [1, 0]
    assert torch.equal(x_adv[1], x[1])
    assert ledger.queries[0] < 101
    assert ledger.queries[1] == 501


def test_S2_a_row_takes_the_same_path_alone():
    setting = mlp()
    together, _ = run(setting.target, setting.x, steps=30, searches=3)
    for i in range(len(setting.x)):
        alone, _ = run(setting.target, setting.x[i : i + 1], steps=30, searches=3)
        torch.testing.assert_close(alone[0], together[i])


def test_S3_a_row_that_is_already_wrong_costs_one_pass():
    x_adv, ledger = run(at_distance(0.2), MIDDLE, goal=Misclassify(torch.tensor([1])))
    assert torch.equal(x_adv, MIDDLE)
    assert (ledger.queries.item(), ledger.gradients.item()) == (1, 1)


def test_S3_a_model_without_slope_leaves_the_row_as_it_is():
    flat = affine([[0.0, 0.0], [0.0, 0.0]], [1.0, 0.0])
    assert torch.equal(run(flat, MIDDLE, steps=10, searches=2)[0], MIDDLE)


def test_S6_more_searches_are_never_farther():
    """The first searches are the same however many follow."""
    setting = mlp()
    sizes = []
    for searches in (1, 2, 4):
        x_adv, _ = run(setting.target, setting.x, steps=40, searches=searches)
        found = setting.target.predict(x_adv).argmax(1) != setting.y
        sizes.append(torch.where(found, size(x_adv - setting.x, "l2"), float("inf")))
    assert (sizes[1] <= sizes[0]).all()
    assert (sizes[2] <= sizes[1]).all()
    assert sizes[2].isfinite().any()
