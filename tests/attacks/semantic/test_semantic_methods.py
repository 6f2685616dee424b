"""Semantic attacks on toys whose answer is known."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from casemate.attacks.semantic.attributes import attributes
from casemate.attacks.semantic.hue_saturation import hue_saturation
from casemate.attacks.semantic.natural import natural
from casemate.attacks.semantic.unrestricted import unrestricted
from casemate.builtin import shapes
from casemate.core import spaces
from casemate.core.errors import NotApplicable
from casemate.core.semantic import Attributes, Colours, Conditional, Latent
from casemate.core.spaces import space_of
from casemate.core.target import Classifier, GradientOracle, LabelOracle
from casemate.core.threat import Become, Misclassify
from casemate.generators.models import ConditionalModel, LatentModel
from casemate.ops.colours import from_hsv, to_hsv
from casemate.ops.rng import rows


@dataclass(frozen=True)
class Same:
    """Not a net: codes are values minus one half."""

    shift: float

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return z + self.shift


class Line(nn.Module):
    """Class 1 where the first value of x exceeds 0.75."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gap = self.weight * (x.flatten(1)[:, 0] - 0.75)
        return torch.stack([torch.zeros_like(gap), gap], 1)


LINE = Classifier(Line(), 2, (2,))


@pytest.fixture
def plain_codes(monkeypatch):
    """A generator whose inputs are the codes plus one half."""
    model = LatentModel(Same(0.5), Same(-0.5), 2, (2,), 1)
    monkeypatch.setattr(spaces, "load", lambda name: model)


@pytest.mark.parametrize("search", ["iterative", "hybrid"])
def test_natural_search_finds_nearly_the_nearest_code(plain_codes, search):
    """From x = (0.5, 0.5) class 1 begins where the first code is 0.25: no code nearer than that succeeds.

    In the plane a shell [r, r + 0.02) around 0.27 has a share of about arccos(0.25 / 0.27) / pi = 12% of
    codes that succeed, so that 200 samples find one beyond doubt.
    """
    x, y = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    oracle = LabelOracle(LINE, 3)
    codes = natural(
        oracle, x, Misclassify(y), Latent(generator="toy", radius=1.0), search=search, samples=200,
        step=0.02, rng=rows(0, 3),
    )  # fmt: skip
    length = codes.norm(dim=1)
    assert (codes[:, 0] > 0.25).all()
    assert (length < 0.25 + 0.05).all()


def test_natural_search_finds_nothing_where_nothing_is(plain_codes):
    x, y = torch.full((2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    codes = natural(LabelOracle(LINE, 2), x, Misclassify(y), Latent(generator="toy", radius=0.2), samples=50,
                    rng=rows(0, 2))  # fmt: skip
    assert torch.equal(codes, torch.zeros(2, 2))


def test_natural_search_keeps_the_number_of_queries(plain_codes):
    x, y = torch.full((2, 2), 0.5), torch.zeros(2, dtype=torch.int64)
    oracle = LabelOracle(LINE, 2)
    budget = Latent(generator="toy", radius=0.2, queries=120)
    natural(oracle, x, Misclassify(y), budget, samples=50, rng=rows(0, 2))
    assert oracle.ledger.queries.tolist() == [100, 100]


class Pick(nn.Module):
    """Gives some of the values of a code."""

    def __init__(self, *columns: int) -> None:
        super().__init__()
        self.columns = list(columns)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, self.columns]


def test_unrestricted_attack_leaves_the_class_to_the_auxiliary_classifier(monkeypatch):
    """Inputs are the codes themselves: the target reads the first value, the auxiliary classifier the second.

    So the first must exceed 0.75 while the second keeps its sign, which tells the class asked for.
    """

    class Aux(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros(len(x)), -x[:, 1], x[:, 1]], 1)

    model = ConditionalModel(Pick(0, 1), Aux(), 2, 2, (2,), 1)
    monkeypatch.setattr(spaces, "load", lambda name: model)
    x, y = torch.zeros(20, 2), torch.zeros(20, dtype=torch.int64)
    codes = unrestricted(
        GradientOracle(LINE, 20), x, Misclassify(y), Conditional(generator="toy", spread=5.0), steps=200,
        near=0.1, sure=1.0, rng=rows(0, 20),
    )  # fmt: skip
    assert (codes[:, 0] > 0.75).sum() >= 18
    assert (codes[:, 1][codes[:, 0] > 0.75] < 0).all()


BACKGROUND = ("background",)


def test_attributes_move_only_those_named_and_within_limits():
    """The target is class 1 where the corner is bright: only the background can do that, by 0.2 at most."""
    samples = shapes.shapes(40, 0)
    known = shapes.sample(40, 0)
    dim = (known.background[:, 0] < 0.7) & (known.background[:, 0] > 0.6)
    x = samples.x[dim]
    budget = Attributes(names=("angle", "background"), limits=(0.5, 0.2), drawn=40)
    y = torch.zeros(len(x), dtype=torch.int64)
    target = Classifier(Line(), 2, (3, 32, 32))
    found = {}
    for mode in ("single", "multi", "sequential"):
        codes = attributes(GradientOracle(target, len(x)), x, Misclassify(y), budget, mode=mode, steps=40,
                           rng=rows(0, len(x)))  # fmt: skip
        space = space_of(budget, x, Misclassify(y))
        assert ((codes - space.start).abs() <= space.scale + 1e-6).all()
        found[mode] = Misclassify(y).reached(target.predict(space.decode(codes).detach()))
    assert len(x) > 0
    assert found["multi"].any()
    assert found["sequential"].any()


class Red(nn.Module):
    """Class 0 where red is the largest colour on the whole."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, green, blue = x.mean((2, 3)).unbind(1)
        return torch.stack([red - torch.maximum(green, blue), torch.zeros_like(red)], 1)


RED = Classifier(Red(), 2, (3, 4, 4))


def red_pictures(n: int) -> torch.Tensor:
    hsv = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    hsv[:, 0] *= 0.05
    return from_hsv(hsv.clamp(0.01, 0.99))


def test_hue_alone_turns_red_to_another_colour_and_leaves_the_value():
    """Two thirds of all shifts leave red behind, so that 50 trials fail with probability (1/3)^50."""
    x, y = red_pictures(10), torch.zeros(10, dtype=torch.int64)
    goal, budget = Misclassify(y), Colours(saturation=0.0)
    codes = hue_saturation(LabelOracle(RED, 10), x, goal, budget, trials=50, rng=rows(0, 10))
    made = space_of(budget, x, goal).decode(codes)
    assert goal.reached(RED.predict(made)).all()
    torch.testing.assert_close(made.amax(1), x.amax(1))
    assert (codes[:, 1] == 0).all()


def test_hue_needs_colour():
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(NotApplicable):
        hue_saturation(LabelOracle(RED, 2), x, Misclassify(torch.zeros(2).long()), Colours(), rng=rows(0, 2))


def test_hsv_goes_there_and_back():
    x = torch.rand(5, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0] = 0.3
    x[1, :, 0] = 0
    torch.testing.assert_close(from_hsv(to_hsv(x)), x)


def test_no_shift_changes_no_bit():
    x = red_pictures(3)
    space = space_of(Colours(), x, Misclassify(torch.zeros(3).long()))
    assert torch.equal(space.decode(space.start), x)


def test_attributes_of_drawn_pictures_are_found_again():
    x = shapes.shapes(30, 3).x[[7, 2, 29]]
    budget = Attributes(names=("colour", "angle"), limits=(0.1, 0.1), drawn=30, seed=3)
    space = space_of(budget, x, Misclassify(torch.zeros(3).long()))
    torch.testing.assert_close(space.decode(space.start), x, atol=1e-5, rtol=0)
    with pytest.raises(NotApplicable):
        space_of(budget, 1 - x, Misclassify(torch.zeros(3).long()))


def test_a_class_must_be_known_to_be_made():
    x = torch.zeros(2, 1, 28, 28)
    budget = Conditional(generator="generator_fashion_conditional_gan")
    with pytest.raises(NotApplicable):
        space_of(budget, x, Become(torch.zeros(2).long()))
