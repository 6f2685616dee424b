"""Sleeper Agent: whose gradient is matched, which rows change, and when the net is trained anew."""

import torch
from torch import Tensor, nn

from casemate.attacks.backdoor.sleeper_agent import sleeper_agent
from casemate.core.alignment import turn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.learner import trainable, weight_gradient
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator

MADE: list[int] = []


def counted() -> nn.Module:
    MADE.append(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def workshop() -> Workshop:
    x = torch.rand(90, 1, 8, 8, generator=generator(0))
    clean = Samples(x, torch.arange(90) % 3, 3)
    how = Recipe(counted, "linear", epochs=2, batch=16)
    model = how(clean, rng=generator(1))
    return Workshop(clean, how, lambda n: [model] * n)


def off(model: Classifier, shop: Workshop, x: Tensor, trigger) -> float:
    """Compute the misalignment with all marked rows of other classes, worked out anew."""
    marked = trigger(shop.clean.x[shop.clean.y != 1])
    wanted = weight_gradient(trainable(model), marked, torch.ones(len(marked), dtype=torch.int64))
    found = weight_gradient(trainable(model), x, torch.ones(len(x), dtype=torch.int64))
    return turn(found, wanted)[0]


def test_rows_point_where_marked_rows_of_other_classes_would() -> None:
    shop = workshop()
    poison = sleeper_agent(
        shop, PoisonBudget(0.1), target=1, eps=0.1, retrainings=0, steps=40, rng=generator(2)
    )
    base, model = shop.clean.x[poison.rows], shop.surrogates(1)[0]
    random = [base + 0.1 * (2 * torch.rand(base.shape, generator=generator(i)) - 1).sign() for i in range(20)]
    assert off(model, shop, poison.x, poison.trigger) < min(
        off(model, shop, x, poison.trigger) for x in (base, *random)
    )
    assert float((poison.x - base).abs().max()) <= 0.1 + 1e-6


def test_the_rows_are_those_of_the_target_with_the_largest_gradients() -> None:
    shop = workshop()
    poison = sleeper_agent(shop, PoisonBudget(0.1), target=1, retrainings=0, steps=1, rng=generator(2))
    model, own = trainable(shop.surrogates(1)[0]), (shop.clean.y == 1).nonzero().flatten()
    sizes = [
        sum(float(g.square().sum()) for g in weight_gradient(model, shop.clean.x[i : i + 1], shop.clean.y[i : i + 1]))
        for i in own.tolist()
    ]  # fmt: skip
    wanted = own[torch.tensor(sizes).argsort(descending=True)[:9]]
    assert sorted(poison.rows.tolist()) == sorted(wanted.tolist())
    assert (poison.y == 1).all()


def test_the_net_is_trained_anew_as_often_as_asked() -> None:
    shop = workshop()
    for retrainings in (0, 1, 4):
        MADE.clear()
        sleeper_agent(shop, PoisonBudget(0.1), retrainings=retrainings, steps=10, rng=generator(2))
        assert len(MADE) == retrainings


def test_the_trigger_shows_in_no_training_row() -> None:
    shop = workshop()
    poison = sleeper_agent(shop, PoisonBudget(0.1), eps=0.05, steps=5, retrainings=0, rng=generator(2))
    assert poison.trigger is not None
    assert float((poison.trigger(poison.x) - poison.x).abs().max()) > 0.3
