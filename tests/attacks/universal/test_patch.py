"""The patch against brute force over all places on a linear model of a small picture."""

import itertools
from statistics import fmean

import pytest
import torch
from torch.nn import functional as F

from casemate.attacks.universal.patch import patch
from casemate.core.errors import NotApplicable
from casemate.core.pasting import Pasting, Patch
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Misclassify
from conformance.models import Linear

SIDE, SQUARE = 6, 2
UPRIGHT = Pasting(area=SQUARE**2 / SIDE**2, rotation=0, smallest=1)


def classifier(weight: torch.Tensor) -> Classifier:
    """Class 1 where weight (x - 1/2) > 0, weight (SIDE, SIDE)."""
    flat = weight.flatten()
    return Classifier(Linear(torch.stack([-flat, flat]) / 2), 2, (1, SIDE, SIDE))


def learnt(weight, *, goal=None, steps=120, x=None, tick=lambda *_: None):
    x = torch.full((40, 1, SIDE, SIDE), 0.5) if x is None else x
    goal = Misclassify(torch.zeros(len(x)).long()) if goal is None else goal
    oracle = GradientOracle(classifier(weight), len(x))
    rng = torch.Generator().manual_seed(0)
    return patch(oracle, x, goal, UPRIGHT, steps=steps, batch=40, rng=rng, tick=tick), oracle


def places() -> torch.Tensor:
    """One place for each corner at which the square covers whole pixels: down and across in steps of a pixel."""
    steps = torch.arange(SIDE - SQUARE + 1) / (SIDE - SQUARE)
    return torch.tensor([(d, a, 0.5, 1.0) for d, a in itertools.product(steps.tolist(), steps.tolist())])


def test_it_is_pasted_where_the_place_says_and_nothing_else_changes():
    """Brute force over the 25 corners: the square is the pattern, all other values are the picture's."""
    pattern = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    x = torch.rand(25, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = Patch(pattern, UPRIGHT).paste(x, places())
    expected = x.clone()
    for row, (top, left) in enumerate(itertools.product(range(5), range(5))):
        expected[row, :, top : top + SQUARE, left : left + SQUARE] = pattern
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    outside = (found - expected).abs() == 0
    assert outside.flatten(1).sum(1).min() >= SIDE**2 - SQUARE**2, "values outside are kept to the last bit"


@pytest.mark.parametrize(
    "goal",
    [Misclassify(torch.zeros(40).long()), Become(torch.ones(40).long())],
    ids=["misclassify", "become"],
)
def test_its_pixels_are_black_or_white_by_the_sign_of_the_weights(goal):
    """Only the outermost columns have weights: the left ones 5, the right ones -5, or the reverse.

    The left half of the pattern lies on the left column or on weights of zero, never on the right one, so at
    every place the margin rises with it or stays: the best pattern is white there, and black on its right.
    """
    for sign in (1.0, -1.0):
        weight = torch.zeros(SIDE, SIDE)
        weight[:, 0], weight[:, -1] = 5 * sign, -5 * sign
        found, _ = learnt(weight, goal=goal)
        best = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
        assert torch.equal(found.pattern, best if sign > 0 else 1 - best)


def covered(weight: torch.Tensor) -> torch.Tensor:
    """Weights that each value of the pattern meets at each of the 25 places, (25, 2, 2)."""
    return weight.unfold(0, SQUARE, 1).unfold(1, SQUARE, 1).reshape(-1, SQUARE, SQUARE)


def test_it_does_as_well_as_the_best_of_all_black_and_white_patterns():
    """Weights fall from left to right: 2^4 patterns at 25 places, each place as likely, none beats what is learnt.

    The loss log(1 + exp(-m)) is convex in the pattern, so its least may lie between the corners, and lower.
    """
    weight = torch.linspace(1.2, -0.8, SIDE).expand(SIDE, SIDE)
    found, _ = learnt(weight, steps=300)
    met = covered(weight)

    def loss(pattern: torch.Tensor) -> float:
        margins = ((pattern - 0.5) * met).sum((1, 2))
        return F.softplus(-margins).mean().item()

    corners = [torch.tensor(v).view(SQUARE, SQUARE) for v in itertools.product((0.0, 1.0), repeat=4)]
    best = min(loss(corner) for corner in corners)
    assert loss(found.pattern[0]) <= best + 0.002
    assert best < loss(torch.full((SQUARE, SQUARE), 0.5))


def test_the_mean_loss_over_places_falls():
    """`ce` on two classes is the margin, so the told mean rises from 0, that of the grey start, to 4 * 1/2."""
    told = []
    learnt(torch.ones(SIDE, SIDE), tick=lambda step, total, values: told.append(values["loss"]))
    assert told[0] == pytest.approx(0, abs=1e-5)
    assert fmean(told[:10]) < fmean(told[10:20]) <= fmean(told[-10:])
    assert told[-1] == pytest.approx(2.0, abs=1e-5)


def test_it_spends_steps_times_batch_passes():
    """30 steps of 40 rows are 1,200 forwards and backwards."""
    _, oracle = learnt(torch.ones(SIDE, SIDE), steps=30)
    assert int(oracle.ledger.queries.sum()) == int(oracle.ledger.gradients.sum()) == 1200


def test_without_rows_it_stays_grey():
    found, _ = learnt(torch.ones(SIDE, SIDE), x=torch.zeros(0, 1, SIDE, SIDE))
    assert torch.equal(found.pattern, torch.full((1, SQUARE, SQUARE), 0.5))


def test_a_patch_smaller_than_a_pixel_is_refused():
    x = torch.full((2, 1, SIDE, SIDE), 0.5)
    oracle = GradientOracle(classifier(torch.ones(SIDE, SIDE)), 2)
    with pytest.raises(NotApplicable):
        patch(oracle, x, Misclassify(torch.zeros(2).long()), Pasting(area=0.02), rng=torch.Generator())
