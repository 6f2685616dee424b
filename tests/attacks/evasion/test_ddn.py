"""DDN against radii worked out by hand and closed forms."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.ddn import ddn
from casemate.core.target import Classifier, GradientOracle, Ledger
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conformance.models import altered, linear, mlp, never_fooled

NEAREST = Lp(norm="l2", eps=float("inf"))


class Ramp(nn.Module):
    """Logits (0, x0 - 0.6): class 1 right of 0.6."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] - 0.6], 1)


RAMP = Classifier(Ramp(), 2, (2,))
LEFT = torch.tensor([[0.215, 0.5]], dtype=torch.float64)  # 0.385 from the boundary


def two_of_four() -> nn.Linear:
    """Tell the first two of four classes from the others; its weights are fixed."""
    layer = nn.Linear(4, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]))
        layer.bias.zero_()
    return layer


def run(
    target: Classifier, x: Tensor, budget: Lp = NEAREST, goal: Goal | None = None, **params
) -> tuple[Tensor, Ledger]:
    oracle = GradientOracle(target, len(x))
    goal = goal or Misclassify(target.predict(x).argmax(1))
    return ddn(oracle, x, goal, budget, rng=rows(0, len(x)), **params), oracle.ledger


SETTLED = 0.05 * (0.1 + 0.9 * (1 + math.cos(0.6 * math.pi)) / 2)


@pytest.mark.parametrize(
    ("steps", "radius"), [(1, 0.0), (2, 0.42), (3, 0.399), (4, 0.399), (5, 0.37905 * (1 + SETTLED))]
)
def test_S6_the_radius_follows_the_boundary_and_the_best_point_is_returned(steps, radius):
    """From 0.4: x fails, so 0.4 * 1.05 = 0.42, a success; 0.42 * 0.95 = 0.399, a success; 0.37905, a failure.

    n steps judge x and the points of the first n - 1 radii. From the first failure after a success
    on, the share falls along the cosine: after the fourth of five steps it is 2.05%, and 0.3868 is a
    success.
    """
    x_adv, _ = run(RAMP, LEFT, steps=steps, start=0.4)
    torch.testing.assert_close(x_adv, LEFT + torch.tensor([[radius, 0.0]], dtype=torch.float64))


class Recorder(nn.Module):
    """A net that remembers what it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.net(x)


def asked(target: Classifier, x: Tensor, eps: float, steps: int) -> tuple[Tensor, Tensor]:
    """Run on one row: the answer, and every point that the target was asked about."""
    watched = Classifier(Recorder(target.net), 2, target.shape)
    oracle = GradientOracle(watched, 1)
    goal = Misclassify(target.predict(x).argmax(1))
    x_adv = ddn(oracle, x, goal, Lp(norm="l2", eps=eps), rng=rows(0, 1), steps=steps)
    return x_adv, torch.cat(oracle.prepared.net.seen)


def test_S6_the_nearest_of_all_examples_met_is_returned():
    setting = mlp()
    two = Classifier(nn.Sequential(setting.target.net, two_of_four()), 2, setting.target.shape)
    for row, steps in itertools.product(setting.x, (15, 40, 70)):
        x_adv, seen = asked(two, row[None], float("inf"), steps)
        wrong = two.predict(seen).argmax(1) != two.predict(row[None]).argmax(1)
        assert wrong.any()
        nearest = size(seen[wrong] - row, "l2").min()
        torch.testing.assert_close(size(x_adv - row, "l2")[0], nearest)


def test_no_point_outside_a_finite_ball_is_asked_about():
    _, seen = asked(RAMP, LEFT, 0.3, 40)
    assert len(seen) == 40
    assert (size(seen - LEFT, "l2") <= 0.3 + 1e-12).all()


def test_the_radius_settles_once_it_has_met_the_boundary_from_both_sides():
    """With a constant share of 5% the best of a long run may stay 5% off; it comes within 0.5% here."""
    x_adv, _ = run(RAMP, LEFT, steps=100, start=0.4)
    assert 0.385 < size(x_adv - LEFT, "l2").item() < 0.385 * 1.005


@pytest.mark.parametrize("start", [0.01, 1.0, 30.0])
def test_the_first_radius_does_not_matter_in_the_end(start):
    x_adv, _ = run(RAMP, LEFT, steps=300, start=start)
    assert 0.385 < size(x_adv - LEFT, "l2").item() < 0.385 * 1.01


def test_N6_values_at_an_edge_do_not_take_the_direction():
    """Logits 0 and 3 x0 + x1 - 3.4 at (1, 0): x0 is at its edge, so the boundary is 0.4 away along x1.

    With the plain gradient the step would point out of the box by 3 parts in 4.
    """

    class Edge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros_like(x[:, 0]), 3 * x[:, 0] + x[:, 1] - 3.4], 1)

    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    x_adv, _ = run(Classifier(Edge(), 2, (2,)), x, steps=2, start=0.45)
    torch.testing.assert_close(x_adv, torch.tensor([[1.0, 0.45 * 1.05]], dtype=torch.float64))


def test_with_a_finite_radius_the_search_stays_in_the_ball_and_ends_with_success():
    """The radius starts at 0.39, not at 1: the second point is an example and the row leaves."""
    x_adv, ledger = run(RAMP, LEFT, Lp(norm="l2", eps=0.39), steps=50)
    torch.testing.assert_close(x_adv, LEFT + torch.tensor([[0.39, 0.0]], dtype=torch.float64))
    assert (ledger.queries.item(), ledger.gradients.item()) == (2, 2)
    x_adv, ledger = run(RAMP, LEFT, Lp(norm="l2", eps=0.38), steps=50)
    assert torch.equal(x_adv, LEFT)
    assert ledger.queries.item() == 50


def test_G2_the_scale_of_two_logits_changes_no_bit():
    setting = linear(2)
    plain, _ = run(setting.target, setting.x, steps=40)
    for scale in (2.0**20, 2.0**-20):
        scaled = altered(setting, lambda out, scale=scale: scale * out)
        torch.testing.assert_close(run(scaled.target, setting.x, steps=40)[0], plain)


def test_G5_a_target_class_is_reached_at_its_own_distance():
    """Logits x0, 0.6 and 0.9 at x0 = 0.95, with class 2 as the wish: 0.05 to the left it is largest."""

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = torch.ones_like(x[:, 0])
            return torch.stack([x[:, 0], 0.6 * level, 0.9 * level], 1)

    x = torch.tensor([[0.95]], dtype=torch.float64)
    x_adv, _ = run(Classifier(Three(), 3, (1,)), x, goal=Become(torch.tensor([2])), steps=200)
    assert 0.05 < (x - x_adv).item() < 0.05 * 1.02


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
def test_G4_G7_a_row_that_stands_costs_a_pass_each_way_per_step(classes):
    setting = never_fooled(classes=classes)
    x_adv, ledger = run(setting.target, setting.x, steps=7)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(7).all()
    assert ledger.gradients.eq(7).all()


def test_S2_a_row_takes_the_same_path_alone():
    setting = mlp()
    together, _ = run(setting.target, setting.x, steps=30)
    for i in range(len(setting.x)):
        alone, _ = run(setting.target, setting.x[i : i + 1], steps=30)
        torch.testing.assert_close(alone[0], together[i])


def test_S3_a_row_that_is_already_wrong_leaves_at_once():
    x_adv, ledger = run(RAMP, LEFT, goal=Misclassify(torch.tensor([1])))
    assert torch.equal(x_adv, LEFT)
    assert ledger.queries.item() == 1
