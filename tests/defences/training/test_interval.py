"""Interval bounds: exact where intervals are, and never crossed."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.defences.training.adversarial import adversarial
from casemate.defences.training.interval import Bounded, ball, bounds, certified, interval, worst_logits
from casemate.ops.rng import generator

PLAIN = Recipe(partial(nn.Linear, 3, 2), "linear")


def convnet() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, stride=2), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(5, 4, 2), nn.Tanh(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 6),
        nn.LeakyReLU(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


def test_bounds_of_a_linear_layer_are_attained() -> None:
    """The lowest w.x over a box is at the corner that w's signs choose: w.c - |w|.r."""
    layer = nn.Linear(3, 2)
    x = torch.tensor([[0.5, 0.4, 0.6]])
    low, high = bounds(layer, ball(x, 0.1))
    corner = x - 0.1 * layer.weight.sign()
    torch.testing.assert_close(low[0], (layer.weight * corner).sum(1) + layer.bias)
    torch.testing.assert_close(high[0], (layer.weight * (2 * x - corner)).sum(1) + layer.bias)


def test_nothing_in_the_ball_crosses_the_bounds() -> None:
    net = convnet()
    net[1].weight.data[::2] *= -1  # type: ignore[union-attr, operator]
    x = torch.rand(1, 2, 12, 12, generator=generator(0))
    low, high = bounds(net, ball(x, 0.05))
    noise = torch.rand(500, 2, 12, 12, generator=generator(1)) * 2 - 1
    inside = torch.cat([x + 0.05 * noise, x + 0.05 * noise.sign()]).clamp(0, 1)
    out = net(inside)
    assert (out >= low - 1e-6).all()
    assert (out <= high + 1e-6).all()
    assert (high - low).min() > 0


def test_a_ball_without_extent_has_the_logits_as_bounds() -> None:
    net = convnet()
    x = torch.rand(4, 2, 12, 12, generator=generator(0))
    low, high = bounds(net, ball(x, 0.0))
    torch.testing.assert_close(low, net(x))
    torch.testing.assert_close(high, net(x))


def test_the_worst_case_is_the_own_class_at_its_lowest() -> None:
    low, high = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]])
    assert worst_logits((low, high), torch.tensor([1])).tolist() == [[4.0, 2.0, 6.0]]


def test_certificates_of_a_linear_model_are_exact() -> None:
    """Two classes, w = (3, -1): the difference 3 a - b changes by at most 4 eps."""
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[3.0, -1.0], [0.0, 0.0]])
    x, y = torch.tensor([[0.5, 0.5], [0.3, 0.7]]), torch.tensor([0, 0])  # differences 1.0 and 0.2
    # as two logits the classes are bounded apart, which here costs nothing: the second is constant
    assert certified(net, x, y, 0.049).tolist() == [True, True]
    assert certified(net, x, y, 0.051).tolist() == [True, False]
    assert certified(net, x, y, 0.26).tolist() == [False, False]
    assert certified(net, x, torch.tensor([1, 1]), 0.0).tolist() == [False, False]


def test_the_loss_grows_from_clean_to_worst_case() -> None:
    loss = Bounded(eps=0.2, kappa=0.25, warm_up=0.5)
    assert loss.at(0.0) == Bounded(0.0, 1.0)
    assert loss.at(0.25) == Bounded(0.1, 0.625)
    assert loss.at(0.5) == loss.at(0.9) == Bounded(0.2, 0.25)


def test_layers_without_a_rule_are_named() -> None:
    with pytest.raises(NotApplicable, match="Softmax"):
        bounds(nn.Sequential(nn.Softmax(1)), ball(torch.rand(1, 3), 0.1))
    with pytest.raises(NotApplicable, match="training mode"):
        bounds(nn.BatchNorm2d(2).train(), ball(torch.rand(1, 2, 3, 3), 0.1))


def test_a_loss_that_another_defence_has_replaced_is_not_thrown_away() -> None:
    with pytest.raises(UsageError, match="must be cross_entropy"):
        interval(adversarial(PLAIN))
    with pytest.raises(UsageError, match="must be cross_entropy"):
        interval(replace(PLAIN, batch_loss=lambda net, x, y, *, rng: net(x).sum()))
