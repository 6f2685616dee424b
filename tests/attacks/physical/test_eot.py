"""EOT on a linear model without and with a channel."""

import pytest
import torch

from casemate.attacks.physical.eot import eot
from casemate.attacks.physical.printed import printed
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn
from casemate.core.channel import Channel
from casemate.core.errors import NotApplicable
from casemate.core.physical import Print, Sticker
from casemate.core.target import GradientOracle
from casemate.core.threat import Become, Misclassify
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conformance.models import linear
from core.test_channel import NEUTRAL


def run(setting, budget, **params):
    oracle = GradientOracle(setting.target, len(setting.x))
    x_adv = eot(oracle, setting.x, Misclassify(setting.y), budget, rng=rows(0, len(setting.x)), **params)
    return x_adv, oracle.ledger


def test_without_a_channel_it_ends_in_the_corner_of_the_ball():
    """Two classes: the gradient is w_other - w_y times a positive factor, through roundings as well."""
    setting = linear(classes=2)
    weight = setting.target.net.weight
    away = (weight[1 - setting.y] - weight[setting.y]).sign().view_as(setting.x)
    # a JPEG of 4 x 4 pixels pads its block with the last row and column, whose gradients add up
    x_adv, _ = run(setting, Print(eps=0.05, channel=NEUTRAL), steps=20, draws=1)
    assert ((x_adv - setting.x).sign() == away).double().mean() > 0.95


def test_the_mean_gradient_decides_where_ways_disagree():
    """The print is seen as it is or upside down: a weight on the upper half only must move both halves.

    One way alone leaves the lower half where it is.
    """
    weight = torch.zeros(2, 64, dtype=torch.float64)
    weight[1, :32] = 1
    setting = linear(classes=2, shape=(1, 8, 8))
    with torch.no_grad():
        setting.target.net.weight.copy_(weight)
    x = torch.full_like(setting.x, 0.4)
    goal = Become(torch.ones(len(x), dtype=torch.int64))
    turning = NEUTRAL.model_copy(update={"angle": (-180.0, 180.0)})
    for channel, expected in ((NEUTRAL, False), (turning, True)):
        oracle = GradientOracle(setting.target, len(x))
        found = eot(oracle, x, goal, Print(eps=0.1, channel=channel), steps=10, draws=20, rng=rows(0, len(x)))
        moved = (found - x)[:, 0, 5:7, 3:5] > 0.05
        assert bool(moved.all()) is expected


def test_each_step_costs_one_pass_per_draw():
    _, ledger = run(linear(), Print(eps=0.05), steps=3, draws=7)
    assert set(ledger.queries.tolist()) == set(ledger.gradients.tolist()) == {21}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_ball_is_kept(norm):
    setting = linear(shape=(3, 8, 8))
    x_adv, _ = run(setting, Print(norm=norm, eps=0.3), steps=5, draws=2)
    assert (size(x_adv - setting.x, norm) <= 0.3 + 1e-9).all()
    assert (size(x_adv - setting.x, norm) > 0.1).all()


def test_it_survives_the_channel_better_than_digital_examples():
    """Ten pictures, 50 ways that neither saw: more than the basic iterative method, at the same radius."""
    _, test = fashion_mini()
    target, channel = fashion_cnn(), Channel()
    picked = (target.predict(test.x).argmax(1) == test.y).nonzero().flatten()[::150][:10]
    x, goal = test.x[picked], Become((test.y[picked] + 1) % 10)
    budget, n = Print(eps=48 / 255), len(picked)
    kept = []
    for attack, params in ((printed, {}), (eot, {"steps": 20, "draws": 8})):
        x_adv = attack(GradientOracle(target, n), x, goal, budget, rng=rows(0, n), **params)
        photos = channel.develop(x_adv, channel.sample(50, rows(1, n), x.shape[1:]))
        kept.append(goal[torch.arange(n).repeat_interleave(50)].reached(target.predict(photos.flatten(0, 1))))
    digital, through = (k.double().mean().item() for k in kept)
    assert through > digital + 0.1


def test_stickers_are_refused():
    with pytest.raises(NotApplicable):
        run(linear(), Sticker(area=0.1))
