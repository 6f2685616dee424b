"""Gradient matching on linear nets, where a row's gradient is known and victims train in no time."""

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from casemate.attacks.targeted.gradient_matching import gradient_matching
from casemate.core.alignment import steepest_rows, turn
from casemate.core.data import Samples
from casemate.core.learner import trainable, weight_gradient
from casemate.core.recipe import Recipe
from casemate.core.tampering import Tampering
from casemate.core.workshop import Aims, Workshop
from casemate.ops.rng import generator


def scene() -> tuple[Workshop, Aims]:
    """Two clouds that overlap a little, and aims of class 0 not far from the border."""
    y = torch.arange(80) % 2
    x = 0.4 + 0.2 * y[:, None].float() + 0.1 * torch.randn(80, 6, generator=generator(0))
    clean = Samples(x.clamp(0, 1), y, 2)
    how = Recipe(partial(nn.Linear, 6, 2), "linear", epochs=40, batch=16, lr=0.05)
    shop = Workshop(clean, how, lambda n: [how(clean, rng=generator(i)) for i in range(n)])
    aims = 0.45 + 0.05 * torch.randn(4, 6, generator=generator(1))
    return shop, Aims(aims, torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64))


def test_poisons_point_where_the_aim_would_and_random_changes_do_not() -> None:
    shop, aims = scene()
    budget = Tampering(poisons=4, eps=0.1, victim="scratch")
    model = trainable(shop.surrogates(1)[0])
    for t, poison in enumerate(gradient_matching(shop, aims, budget, steps=60, rng=generator(2))):
        wanted = weight_gradient(model, aims.x[t : t + 1], aims.wish[t : t + 1])
        base = shop.clean.x[poison.rows]
        others = [
            base + 0.1 * (2 * torch.rand(base.shape, generator=generator(i)) - 1).sign() for i in range(20)
        ]
        found, *random = (turn(weight_gradient(model, x, poison.y), wanted)[0] for x in (poison.x, *others))
        assert found < min(random)


def test_a_net_trained_on_the_poison_likes_the_wish_more_than_before() -> None:
    shop, aims = scene()
    budget = Tampering(poisons=8, eps=0.2, victim="scratch")
    poisons = gradient_matching(shop, aims, budget, choice="steepest", steps=60, rng=generator(2))
    for t, poison in enumerate(poisons):
        before, after = (
            float(shop.recipe(data, rng=generator(9)).predict(aims.x[t : t + 1]).softmax(1)[0, 1])
            for data in (shop.clean, poison.apply(shop.clean))
        )
        assert after > before


def test_the_rows_are_the_steepest_or_random_ones_of_the_class_wished_for() -> None:
    shop, aims = scene()
    budget = Tampering(poisons=5, eps=0.1, victim="scratch")
    model = trainable(shop.surrogates(1)[0])
    own = (shop.clean.y == 1).nonzero().flatten()
    sizes = torch.stack(
        [
            sum(
                g.square().sum()
                for g in weight_gradient(model, shop.clean.x[i : i + 1], shop.clean.y[i : i + 1])
            )
            for i in own.tolist()
        ]
    )
    steep = set(own[sizes.argsort(descending=True)[:5]].tolist())
    chosen = gradient_matching(shop, aims, budget, choice="steepest", steps=1, rng=generator(0))
    random = gradient_matching(shop, aims, budget, choice="random", steps=1, rng=generator(0))
    assert all(set(p.rows.tolist()) == steep for p in chosen)
    assert len({tuple(p.rows.tolist()) for p in random}) == len(random)
    assert all((p.y == 1).all() for p in (*chosen, *random))


def test_more_starts_are_never_worse_aligned() -> None:
    shop, aims = scene()
    budget = Tampering(poisons=3, eps=0.05, victim="scratch")
    model = trainable(shop.surrogates(1)[0])
    one = Aims(aims.x[:1], aims.y[:1], aims.wish[:1])
    wanted = weight_gradient(model, one.x, one.wish)
    off = [
        turn(weight_gradient(model, p.x, p.y), wanted)[0]
        for restarts in (1, 4)
        for p in gradient_matching(shop, one, budget, restarts=restarts, steps=10, rng=generator(3))
    ]
    assert off[1] <= off[0]


def test_nets_in_training_are_of_a_share_of_the_epochs_and_the_ready_ones_are_left_alone() -> None:
    """Rows are aligned to a net of 40 / 4 epochs, which the same numbers train again."""
    shop, aims = scene()
    one = Aims(aims.x[:1], aims.y[:1], aims.wish[:1])
    none = replace(shop, surrogates=lambda n: [])
    budget = Tampering(poisons=3, eps=0.05, victim="scratch")
    (poison,) = gradient_matching(
        none, one, budget, trained=0.25, choice="steepest", steps=60, rng=generator(3)
    )
    early = trainable(replace(shop.recipe, epochs=10)(shop.clean, rng=generator(3)))
    wanted = weight_gradient(early, one.x, one.wish)
    after, before = (
        turn(weight_gradient(early, x, poison.y), wanted)[0] for x in (poison.x, shop.clean.x[poison.rows])
    )
    assert after < before
    own = (shop.clean.y == 1).nonzero().flatten()
    steep = own[steepest_rows(early, shop.clean.x[own], shop.clean.y[own], 3)]
    assert poison.rows.tolist() == steep.tolist()


def test_the_hardest_rows_are_those_that_the_ready_nets_are_least_sure_of() -> None:
    """Of two classes the odds of error of class 1 are z_0 - z_1; the mean of two nets is taken by hand."""
    shop, aims = scene()
    one = Aims(aims.x[:1], aims.y[:1], aims.wish[:1])
    budget = Tampering(poisons=5, eps=0.1, victim="scratch")
    own = (shop.clean.y == 1).nonzero().flatten()
    logits = sum(model.predict(shop.clean.x[own]) for model in shop.surrogates(2))
    hardest = own[(logits[:, 0] - logits[:, 1]).argsort(descending=True)[:5]]
    (poison,) = gradient_matching(
        shop, one, budget, choice="hardest", surrogates=2, trained=0.1, steps=1, rng=generator(0)
    )
    assert poison.rows.tolist() == hardest.tolist()
