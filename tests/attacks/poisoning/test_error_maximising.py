"""Adversarial examples as poisons: on a linear model they are corners of the ball."""

import pytest
import torch
from torch import nn

from casemate.assess.families.poisoning import control
from casemate.attacks.poisoning.error_maximising import error_maximising
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator

WEIGHTS = torch.tensor([[1.0, -2.0, 3.0, 0.5], [-1.0, 1.0, 0.5, 2.0], [0.5, 3.0, -1.0, -2.0]])


def shop(classes: int = 3) -> Workshop:
    net = nn.Linear(4, classes, bias=False)
    net.weight.data = WEIGHTS[:classes].clone()
    clean = Samples(
        0.3 + 0.4 * torch.rand(20, 4, generator=generator(0)), torch.arange(20) % classes, classes
    )
    model = Classifier(net.eval(), classes, (4,))
    return Workshop(clean, Recipe(lambda: nn.Linear(4, classes), "linear"), lambda count: [model] * count)


def test_with_two_classes_rows_go_to_the_corner_between_the_weights():
    """The loss depends on (w_t - w_y) x alone, so every step has the signs of w_t - w_y, and 2.5 eps in all
    reach the corner from any start."""
    made_in = shop(2)
    made = error_maximising(made_in, PoisonBudget(1.0), eps=0.1, steps=10, rng=generator(1))
    x, y = made_in.clean.x[made.rows], made_in.clean.y[made.rows]
    signs = (WEIGHTS[1 - y] - WEIGHTS[y]).sign()
    torch.testing.assert_close(made.x, x + 0.1 * signs)
    assert torch.equal(made.y, y)
    assert len(made.rows.unique()) == 20


def test_rows_come_nearer_to_the_class_that_the_offset_names():
    made_in = shop()
    model = made_in.surrogates(1)[0]
    for offset in (1, 2):
        made = error_maximising(made_in, PoisonBudget(0.5), eps=0.2, offset=offset, rng=generator(1))
        x, wish = made_in.clean.x[made.rows], (made.y + offset) % 3
        before, after = (model.predict(z).softmax(1).gather(1, wish[:, None]) for z in (x, made.x))
        assert (after > before).all()
        assert float((made.x - x).abs().max()) <= 0.2 * (1 + 1e-6)


def test_an_offset_that_leads_back_is_refused():
    with pytest.raises(NotApplicable, match="leads to no other"):
        error_maximising(shop(), PoisonBudget(1.0), offset=3, rng=generator(0))


def test_its_control_moves_the_same_rows_as_far_and_keeps_the_labels():
    made_in = shop()
    made = error_maximising(made_in, PoisonBudget(0.5), eps=0.1, steps=10, rng=generator(1))
    idle = control(made, made_in.clean, 0)
    moved = (idle.x - made_in.clean.x).abs()
    assert torch.equal(idle.y, made_in.clean.y)
    assert sorted(moved.amax(1).nonzero().flatten().tolist()) == sorted(made.rows.tolist())
    torch.testing.assert_close(moved[made.rows], torch.full((10, 4), 0.1))
