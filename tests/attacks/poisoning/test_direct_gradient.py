"""The direct gradient method: on a victim that can be solved for, poisons go where its next step hurts most."""

from functools import partial

import pytest
import torch
from torch import nn

from casemate.attacks.poisoning.direct_gradient import _ahead, _climb, direct_gradient
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import untrained
from casemate.core.recipe import Recipe
from casemate.core.rehearsal import Mixture, Rehearsal
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator

WEIGHTS = torch.tensor([[2.0, -1.0], [-1.0, 2.0]])


def fixed() -> nn.Linear:
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = WEIGHTS.clone()
    return net


def shop(classes: int = 2, n: int = 40) -> Workshop:
    x = 0.3 + 0.4 * torch.rand(n, 2, generator=generator(0))
    y = x.argmax(1) % classes
    return Workshop(
        Samples(x, y, classes), Recipe(fixed, "linear", epochs=2, batch=10, lr=0.5), lambda count: []
    )


def test_a_poison_is_as_bad_as_the_worst_of_a_grid() -> None:
    """One poison alone, one step of the victim: the loss that follows is a function of two pixels, which a grid
    of 21 x 21 points exhausts but for what lies between its points. The victim has taken four steps before:
    Adam's very first one has the same length whatever the gradient, so that only signs would count."""
    clean = shop().clean
    of = untrained(shop().recipe, clean.x, generator(1))
    victim = Rehearsal(of, shop().recipe, len(clean))
    stage = victim.advance(victim.begin(), [partial(of.loss, x=clean.x, y=clean.y)] * 4)
    mixture = Mixture(clean[:0], 1.0, 10)
    label = torch.tensor([1])
    ahead = partial(_ahead, victim, stage, mixture, label, clean, 10.0, 1, 0)
    side = torch.linspace(0, 1, 21)
    grid = torch.cartesian_prod(side, side)
    worst = max(float(ahead(point[None])[1].detach()) for point in grid)
    x, value = _climb(ahead, torch.tensor([[0.6, 0.4]]), 60, 0.3)
    assert value >= worst - 0.02 * abs(worst)
    assert x.min() >= 0
    assert x.max() <= 1
    torch.testing.assert_close(float(ahead(x)[1].detach()), value)


def test_moves_never_end_worse_than_they_began() -> None:
    losses: dict[int, list[float]] = {}
    for steps in (0, 8):
        seen = losses.setdefault(steps, [])
        made = direct_gradient(
            shop(), PoisonBudget(0.1), steps=steps, inner_steps=3, rng=generator(2),
            tick=lambda step, total, values, seen=seen: seen.append(values["loss"]),
        )  # fmt: skip
        assert (made.y != shop().clean.y[made.rows]).all()
    # the first batch of poisons sees the same victim in both runs
    assert losses[8][0] > losses[0][0]


def test_each_round_moves_all_poisons_on() -> None:
    """Four poisons come one by one, as one in ten does in batches of ten: two rounds are eight turns, of which the
    first four are those of one round, draw for draw. Two moves of 0.02 cannot leave the box from [0.3, 0.7], nor
    end where they began."""
    seen: dict[int, list[float]] = {1: [], 2: []}
    made = {
        rounds: direct_gradient(
            shop(), PoisonBudget(0.1), rounds=rounds, steps=2, length=0.02, rng=generator(2),
            tick=lambda step, total, values, rounds=rounds: seen[rounds].append(values["loss"]),
        )
        for rounds in (1, 2)
    }  # fmt: skip
    assert len(seen[2]) == 8
    assert seen[2][:4] == seen[1]
    assert torch.equal(made[1].rows, made[2].rows)
    assert (made[1].x != made[2].x).flatten(1).any(1).all()


def test_a_victim_at_its_end_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes eight steps, one for each turn: of twelve turns, in three rounds, the ninth meets a fresh one."""
    begun: list[int] = []
    begin = Rehearsal.begin
    monkeypatch.setattr(Rehearsal, "begin", lambda self: begun.append(1) or begin(self))
    direct_gradient(shop(), PoisonBudget(0.1), rounds=3, steps=0, rng=generator(2))
    assert len(begun) == 2


def test_one_label_for_all_is_wrong_for_all() -> None:
    """Without moves the poison is a flood of one class, clean rows of the other class."""
    made = direct_gradient(shop(), PoisonBudget(0.25), labels="one for all", steps=0, rng=generator(0))
    assert len(made.rows) == 10
    assert made.y.unique().numel() == 1
    assert (made.y != shop().clean.y[made.rows]).all()
    assert torch.equal(made.x, shop().clean.x[made.rows])


def test_one_class_and_an_offset_that_leads_nowhere_are_refused() -> None:
    with pytest.raises(NotApplicable, match="no other of 1 classes"):
        direct_gradient(shop(1), PoisonBudget(0.5), rng=generator(0))
    with pytest.raises(NotApplicable, match="offset of 2"):
        direct_gradient(shop(), PoisonBudget(0.5), offset=2, rng=generator(0))
