"""Unlearnable examples: on a linear model that hardly learns they are corners of the ball."""

import pytest
import torch
from torch import nn

from casemate.attacks.poisoning.error_minimising import error_minimising
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator

WEIGHTS = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, 1.0, 0.5, 2.0]])


def fixed() -> nn.Linear:
    net = nn.Linear(4, 2, bias=False)
    net.weight.data = WEIGHTS.clone()
    return net


def shop(lr: float, classes: int = 2) -> Workshop:
    y = torch.arange(20) % classes
    clean = Samples(0.3 + 0.4 * torch.rand(20, 4, generator=generator(0)), y, classes)
    return Workshop(clean, Recipe(fixed, "linear", lr=lr, batch=8), lambda count: [])


def test_rows_go_to_the_corner_that_their_own_class_likes_best():
    """Weights that move by 1e-12 keep the signs of w_y - w_t, and ten steps of eps / 5 cross the ball."""
    made_in = shop(1e-12)
    made = error_minimising(made_in, PoisonBudget(1.0), eps=0.1, rounds=2, steps=5, rng=generator(1))
    x, y = made_in.clean.x[made.rows], made_in.clean.y[made.rows]
    torch.testing.assert_close(made.x, x + 0.1 * (WEIGHTS[y] - WEIGHTS[1 - y]).sign())
    assert torch.equal(made.y, y)


def test_the_net_learns_the_rows_as_they_are_moved():
    losses: list[float] = []
    error_minimising(
        shop(0.05), PoisonBudget(1.0), eps=0.2, rounds=5, rng=generator(1),
        tick=lambda step, total, values: losses.append(values["loss"]),
    )  # fmt: skip
    assert losses[-1] < losses[0] / 2


def test_one_class_is_refused():
    with pytest.raises(NotApplicable, match="two or more classes"):
        error_minimising(shop(0.1, 1), PoisonBudget(1.0), rng=generator(0))
