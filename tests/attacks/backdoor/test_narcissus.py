"""Narcissus: which rows count and change, and what the pattern is on a linear net."""

from functools import partial

import pytest
import torch
from torch import nn

from casemate.attacks.backdoor.narcissus import _hardest, _inward, narcissus
from casemate.builtin.data import digits
from casemate.builtin.nets import small_cnn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
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
    settings = {"target": 1, "pictures": 40, "steps": 5}
    one, other = (
        narcissus(workshop(grey), PoisonBudget(0.2), rng=generator(1), **settings) for grey in (0.2, 0.9)
    )
    assert torch.equal(one.x, other.x)
    assert (one.y == 1).all()
    assert (one.rows % 3 == 1).all()


def test_public_digits_are_no_public_pictures_to_a_victim_that_reads_them() -> None:
    clean = digits()[0][slice(0, 100)]
    shop = Workshop(clean, Recipe(partial(small_cnn, (1, 8, 8), 10), "tiny", epochs=1), lambda n: [])
    with pytest.raises(NotApplicable, match=r'"digits" holds 100 rows .* public="figures"'):
        narcissus(shop, PoisonBudget(0.1), rng=generator(1))
    poison = narcissus(shop, PoisonBudget(0.1), public="figures", pictures=40, steps=2, rng=generator(1))
    assert len(poison.rows)


W = torch.tensor([0.5, -1.0, 0.25, -0.5])


def linear(certainty: float) -> Prepared:
    """Logits of class 0: w x + certainty, of class 1: 0."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([W, torch.zeros(4)]))
        net[1].bias.copy_(torch.tensor([certainty, 0.0]))
    return Prepared(Classifier(net, 2, (1, 2, 2)))


def rows_of_class_0() -> Samples:
    return Samples(0.3 + 0.4 * torch.rand(20, 1, 2, 2, generator=generator(0)), torch.zeros(20).long(), 2)


@pytest.mark.parametrize("certainty", [0.0, 40.0])
def test_on_a_linear_net_the_pattern_is_the_sign_of_what_tells_the_class(certainty: float) -> None:
    """The log-odds of error, -w x - certainty, fall along w everywhere, and the ball ends at eps sign(w).

    At a certainty of 40 cross-entropy and its gradient are e-40, which RAdam takes for nothing.
    """
    nets = [linear(certainty), linear(certainty)]
    delta = _inward(nets, rows_of_class_0(), torch.zeros(1, 2, 2), 0.1, 0.01, 100, generator(1), ignore)
    torch.testing.assert_close(delta.flatten(), 0.1 * W.sign())


def test_the_hardest_rows_are_those_of_the_smallest_logit() -> None:
    known = rows_of_class_0()
    logits = known.x.flatten(1) @ W
    assert _hardest([linear(1.0)], known, 5).tolist() == logits.argsort()[:5].tolist()


def test_a_large_class_is_judged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    known, net, sizes = rows_of_class_0(), linear(1.0), []
    monkeypatch.setattr("casemate.attacks.backdoor.narcissus.ROWS", 8)
    net.net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert _hardest([net], known, 5).tolist() == (known.x.flatten(1) @ W).argsort()[:5].tolist()
    assert sizes == [8, 8, 4]


def test_hard_rows_are_rows_of_the_class_as_many_as_allowed() -> None:
    shop = workshop(0.5)
    poison = narcissus(
        shop,
        PoisonBudget(0.1),
        target=1,
        choice="hardest",
        surrogates=2,
        pictures=40,
        steps=2,
        rng=generator(1),
    )
    assert len(set(poison.rows.tolist())) == 6
    assert (poison.rows % 3 == 1).all()
    assert (poison.y == 1).all()


def test_inputs_carry_the_pattern_magnified() -> None:
    shop = workshop(0.5)
    poison = narcissus(
        shop, PoisonBudget(0.1), target=1, eps=0.02, magnify=2.0, pictures=40, steps=20, rng=generator(1)
    )
    grey = torch.full((1, 1, 8, 8), 0.5)
    assert poison.trigger is not None
    mark = poison.trigger(grey) - grey
    base = shop.clean.x[poison.rows]
    torch.testing.assert_close(poison.x, (base + mark / 2).clamp(0, 1))
    assert 0 < float(mark.abs().max()) <= 0.04 + 1e-6
