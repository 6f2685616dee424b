"""Narcissus: which rows count, what the pattern is on a linear net, and the public pictures."""

from functools import partial

import torch
from torch import nn

from casemate.attacks.backdoor.narcissus import _inward, _public, narcissus
from casemate.builtin.nets import small_cnn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import ignore
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator


def workshop(others: float) -> Workshop:
    """Rows of class 1 are random, those of other classes all of one grey."""
    x, y = torch.rand(60, 1, 8, 8, generator=generator(0)), torch.arange(60) % 3
    x[y != 1] = others
    how = Recipe(partial(small_cnn, (1, 8, 8), 3), "tiny", epochs=1)
    return Workshop(Samples(x, y, 3), how, lambda n: [])


def test_rows_of_other_classes_are_not_looked_at() -> None:
    settings = {"target": 1, "public": 40, "steps": 5}
    one, other = (
        narcissus(workshop(grey), PoisonBudget(0.2), rng=generator(1), **settings) for grey in (0.2, 0.9)
    )
    assert torch.equal(one.x, other.x)
    assert (one.y == 1).all()
    assert (one.rows % 3 == 1).all()


def test_on_a_linear_net_the_pattern_is_the_sign_of_what_tells_the_class() -> None:
    """Logits w x and 0: the loss of the first falls along w everywhere, and the ball ends at eps sign(w)."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    w = torch.tensor([0.5, -1.0, 0.25, -0.5])
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([w, torch.zeros(4)]))
        net[1].bias.zero_()
    known = Samples(0.3 + 0.4 * torch.rand(20, 1, 2, 2, generator=generator(0)), torch.zeros(20).long(), 2)
    model = Prepared(Classifier(net, 2, (1, 2, 2)))
    delta = _inward(model, known, torch.zeros(1, 2, 2), 0.1, 0.01, 100, generator(1), ignore)
    torch.testing.assert_close(delta.flatten(), 0.1 * w.sign())


def test_inputs_carry_the_pattern_magnified() -> None:
    shop = workshop(0.5)
    poison = narcissus(
        shop, PoisonBudget(0.1), target=1, eps=0.02, magnify=2.0, public=40, steps=20, rng=generator(1)
    )
    grey = torch.full((1, 1, 8, 8), 0.5)
    assert poison.trigger is not None
    mark = poison.trigger(grey) - grey
    base = shop.clean.x[poison.rows]
    torch.testing.assert_close(poison.x, (base + mark / 2).clamp(0, 1))
    assert 0 < float(mark.abs().max()) <= 0.04 + 1e-6


def test_public_pictures_have_two_colours_and_six_kinds() -> None:
    x, kinds = _public((3, 16, 12), 60, generator(0))
    assert x.shape == (60, 3, 16, 12)
    assert kinds.bincount().tolist() == [10] * 6
    assert all(len(picture.flatten(1).unique(dim=1).T) == 2 for picture in x)
