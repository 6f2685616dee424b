"""FMN against radii and examples worked out by hand, and against brute force in l0."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.fmn import fmn
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conformance.models import altered, linear, mlp, never_fooled

NORMS = pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])


def two(weight: list[float], bias: float) -> Classifier:
    """Logits (0, w x + b)."""
    net = nn.Linear(len(weight), 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * len(weight), weight], dtype=torch.float64))
        net.bias.copy_(torch.tensor([0.0, bias], dtype=torch.float64))
    return Classifier(net, 2, (len(weight),))


def run(
    target: Classifier, x: Tensor, norm: str, eps: float = float("inf"), goal: Goal | None = None, **params
):
    oracle = GradientOracle(target, len(x))
    goal = goal or Misclassify(target.predict(x).argmax(1))
    return fmn(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, len(x)), **params), oracle.ledger


# w = (0.5, -4, 1), gap 0.8 at the middle of the box
SLOPED = two([0.5, -4.0, 1.0], 0.45)
MIDDLE = torch.full((1, 3), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    ("norm", "dual", "way"),
    [
        ("linf", 5.5, [1.0, -1.0, 1.0]),
        ("l2", 17.25**0.5, [0.5 / 17.25**0.5, -4 / 17.25**0.5, 1 / 17.25**0.5]),
        ("l1", 4.0, [0.0, -1.0, 0.0]),
    ],
)
def test_the_first_radius_is_the_distance_of_a_linear_model(norm, dual, way):
    """The gap is 0.25 - 2 + 0.5 + 0.45 = -0.8, the distance 0.8 / dual, and a thousandth is added.

    The step of length 2 (linf: 10) along w is far longer than the radius, so its projection is the
    point of the ball that lies farthest along w (in l1 all of it on the largest slope).
    """
    x_adv, _ = run(SLOPED, MIDDLE, norm, steps=2)
    expected = MIDDLE + 1.001 * 0.8 / dual * torch.tensor([way], dtype=torch.float64)
    torch.testing.assert_close(x_adv, expected)


class Recorder(nn.Module):
    """A net that remembers what it was asked."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.net(x)


def asked(norm: str, target: Classifier, x: Tensor, eps: float, steps: int) -> tuple[Tensor, Tensor]:
    """Run on one row: the answer, and every point that the target was asked about."""
    watched = Classifier(Recorder(target.net), 2, target.shape)
    oracle = GradientOracle(watched, 1)
    goal = Misclassify(target.predict(x).argmax(1))
    x_adv = fmn(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, 1), steps=steps)
    return x_adv, torch.cat(oracle.prepared.net.seen)


@NORMS
def test_S6_the_nearest_of_all_examples_met_is_returned(norm):
    x_adv, seen = asked(norm, SLOPED, MIDDLE, float("inf"), 40)
    wrong = SLOPED.predict(seen).argmax(1) == 1
    assert wrong.any()
    torch.testing.assert_close(size(x_adv - MIDDLE, norm)[0], size(seen[wrong] - MIDDLE, norm).min())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.15), ("l1", 0.15), ("l0", 0.0)])
def test_no_point_outside_a_finite_ball_is_asked_about(norm, eps):
    _, seen = asked(norm, SLOPED, MIDDLE, eps, 40)
    assert len(seen) == 40
    assert (size(seen - MIDDLE, norm) <= eps + 1e-12).all()


@NORMS
def test_S6_n_steps_return_the_best_of_n_points(norm):
    """Whatever the schedule, what comes back is an example, and no point nearer than the closed form."""
    sizes = []
    for steps in (2, 5, 20, 80):
        x_adv, _ = run(SLOPED, MIDDLE, norm, steps=steps)
        assert SLOPED.predict(x_adv).argmax(1).item() == 1
        sizes.append(size(x_adv - MIDDLE, norm).item())
    nearest = {"linf": 0.8 / 5.5, "l2": 0.8 / 17.25**0.5, "l1": 0.2, "l0": 1.0}[norm]
    assert all(nearest <= found <= nearest * 1.0011 for found in sizes)


def fewest(target: Classifier, x: Tensor) -> int:
    """Fewest values of x whose moves to an edge change the class, by trying all sets of them."""
    y = target.predict(x[None]).argmax(1)
    for count in range(len(x) + 1):
        for chosen in itertools.combinations(range(len(x)), count):
            for edges in itertools.product([0.0, 1.0], repeat=count):
                tried = x.clone()
                tried[list(chosen)] = torch.tensor(edges, dtype=x.dtype)
                if target.predict(tried[None]).argmax(1) != y:
                    return count
    return len(x) + 1


def test_l0_examples_change_one_value_more_at_most_than_brute_force_finds():
    """Rows of seven values with a gap of 0.6; the projection keeps the largest changes, not the largest gains."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(7, generator=generator, dtype=torch.float64)
    x = torch.rand(6, 7, generator=generator, dtype=torch.float64)
    more = []
    for row in x:
        target = two(weight.tolist(), -0.6 - float(weight @ row))
        x_adv, _ = run(target, row[None], "l0", steps=150)
        assert target.predict(x_adv).argmax(1).item() == 1
        more.append(size(x_adv - row, "l0").item() - fewest(target, row))
    assert all(0 <= count <= 1 for count in more)
    assert sum(more) <= 2


def test_an_l0_change_of_a_pixel_counts_once_for_its_channels():
    """Three channels of one pixel carry the whole slope: one pixel is the answer."""

    class Pixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x), dtype=x.dtype), x[:, :, 1, 1].sum(1) - 2.0], 1)

    x = torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64)
    x_adv, _ = run(Classifier(Pixel(), 2, (3, 2, 2)), x, "l0", steps=30)
    assert size(x_adv - x, "l0").item() == 1


@NORMS
def test_N6_values_at_an_edge_do_not_take_the_step(norm):
    """x0 is at its edge and has the largest slope; the class changes by x1 and x2 alone.

    Unless such slopes are left out, each step is spent on x0 and undone by the box.
    """
    target = two([100.0, 1.0, 1.0], -100.9)
    x = torch.tensor([[1.0, 0.2, 0.2]], dtype=torch.float64)
    x_adv, _ = run(target, x, norm, steps=60)
    assert target.predict(x_adv).argmax(1).item() == 1
    nearest = {"linf": 0.25, "l2": 0.25 * 2**0.5, "l1": 0.5, "l0": 1.0}[norm]
    assert size(x_adv - x, norm).item() <= nearest * 1.02


def test_with_a_finite_radius_the_search_stays_in_the_ball_and_ends_with_success():
    """The l2 distance is 0.8 / sqrt(17.25) = 0.19262, the first radius a thousandth more: 0.19281."""
    x_adv, ledger = run(SLOPED, MIDDLE, "l2", eps=0.193, steps=50)
    assert size(x_adv - MIDDLE, "l2").item() <= 0.193
    assert SLOPED.predict(x_adv).argmax(1).item() == 1
    assert ledger.queries.item() == 2
    x_adv, ledger = run(SLOPED, MIDDLE, "l2", eps=0.192, steps=50)
    assert torch.equal(x_adv, MIDDLE)
    assert ledger.queries.item() == 50


@NORMS
def test_G1_G2_neither_shift_nor_scale_of_the_logits_matters(norm):
    """Up to the last radius' share of 0.1%: rounding may turn a decision on the boundary itself."""
    setting = linear()
    plain, _ = run(setting.target, setting.x, norm, steps=40)
    for alter in (lambda out: out - 50, lambda out: 2.0**20 * out, lambda out: 2.0**-20 * out):
        changed, _ = run(altered(setting, alter).target, setting.x, norm, steps=40)
        torch.testing.assert_close(
            size(changed - setting.x, norm), size(plain - setting.x, norm), rtol=5e-3, atol=0
        )


@NORMS
@pytest.mark.parametrize("classes", [2, 3, 5, 100])
def test_G4_G7_a_row_that_stands_costs_a_pass_each_way_per_step(norm, classes):
    setting = never_fooled(classes=classes)
    x_adv, ledger = run(setting.target, setting.x, norm, steps=7)
    assert torch.equal(x_adv, setting.x)
    assert ledger.queries.eq(7).all()
    assert ledger.gradients.eq(7).all()


def test_G5_a_target_class_is_reached_at_its_own_distance():
    """Logits x0, 0.6 and 0.9 at x0 = 0.95: class 2 is 0.05 away, class 1 never wins."""

    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = torch.ones_like(x[:, 0])
            return torch.stack([x[:, 0], 0.6 * level, 0.9 * level], 1)

    x = torch.tensor([[0.95]], dtype=torch.float64)
    x_adv, _ = run(Classifier(Three(), 3, (1,)), x, "linf", goal=Become(torch.tensor([2])), steps=20)
    assert 0.05 < (x - x_adv).item() < 0.05 * 1.0011


@NORMS
def test_S2_a_row_takes_the_same_path_alone(norm):
    setting = mlp()
    together, _ = run(setting.target, setting.x, norm, steps=30)
    for i in range(len(setting.x)):
        alone, _ = run(setting.target, setting.x[i : i + 1], norm, steps=30)
        torch.testing.assert_close(alone[0], together[i])


def test_S3_a_row_that_is_already_wrong_leaves_at_once():
    x_adv, ledger = run(SLOPED, MIDDLE, "l2", goal=Misclassify(torch.tensor([1])))
    assert torch.equal(x_adv, MIDDLE)
    assert ledger.queries.item() == 1


def test_S3_a_model_without_slope_leaves_the_row_as_it_is():
    x_adv, _ = run(two([0.0, 0.0, 0.0], -1.0), MIDDLE, "l1")
    assert torch.equal(x_adv, MIDDLE)
