"""Back-gradient optimisation: points that never end worse than they began."""

from functools import partial

import pytest
import torch
from torch import nn

from casemate.assess.prove import prove
from casemate.attacks.poisoning.back_gradient import _climb, back_gradient
from casemate.builtin.data import digits
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.hypergradients import Training
from casemate.core.learner import Learner, descend, untrained
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator
from casemate.scenes.poisoning import linear, softmax_regression


def blobs(n: int = 40, seed: int = 0) -> Samples:
    """Two overlapping clouds of four values each."""
    y = torch.arange(n) % 2
    x = 0.2 * torch.randn(n, 4, generator=generator(seed)) + 0.4 + 0.2 * y[:, None]
    return Samples(x.clamp(0, 1), y, 2)


RECIPE = Recipe(partial(linear, 4, 2), "softmax 4")
SHOP = Workshop(blobs(), RECIPE, lambda n: [], blobs(seed=1))
HOW = {"inner_steps": 20, "rate": 1.0}


def damage(poison) -> float:
    """Loss on validation rows of the learner trained in the head; its first weights are the next drawn."""
    dirty = poison.apply(SHOP.clean)
    of = untrained(RECIPE, dirty.x.double(), generator(9))
    weights = descend(of, of.start(), dirty.x.double(), dirty.y, 1.0, 20)
    return float(of.loss(weights, SHOP.held_out.x.double(), SHOP.held_out.y))


@pytest.mark.parametrize("mode", ["reverse", "unrolled"])
def test_moving_the_points_does_more_than_their_starts(mode):
    """The same seed draws the same rows and first weights; the budget is 4 of 40 rows."""
    still, moved = (
        back_gradient(
            SHOP, PoisonBudget(0.1), rng=generator(0), mode=mode, outer_steps=k, refine_steps=k, **HOW
        )
        for k in (0, 3)
    )
    assert torch.equal(still.rows, moved.rows)
    assert damage(moved) > damage(still) + 0.01


def test_without_steps_points_are_validation_rows_with_wrong_labels():
    made = back_gradient(SHOP, PoisonBudget(0.1), rng=generator(0), outer_steps=0, refine_steps=0, **HOW)
    same = (made.x[:, None] == SHOP.validation.x).all(2)
    assert same.sum(1).eq(1).all()
    assert (SHOP.validation.y[same.int().argmax(1)] != made.y).all()


def test_of_several_attempts_the_one_that_does_most_is_kept():
    """Two attempts begin as one does, draw for draw, and the second has the other class for all its points.

    With this seed the second does more, by 0.02 of a loss of 0.65.
    """
    settings = {"outer_steps": 2, "refine_steps": 0, "labels": "one for all", **HOW}
    one, two = (
        back_gradient(SHOP, PoisonBudget(0.1), rng=generator(8), attempts=k, **settings) for k in (1, 2)
    )
    assert one.y.eq(0).all()
    assert two.y.eq(1).all()
    assert damage(two) > damage(one) + 0.01


def test_a_step_goes_along_what_the_box_leaves_of_the_gradient():
    """One step of descent from zero weights on one row x of class 0 gives that class the weights x / 2, so that
    c times them has gradient c / 2: of (3, 4, -5, -4) / 2 the two parts that lead outwards are dropped, and
    0.25 along what is left, (3, 0, 0, -4), is (0.15, 0, 0, -0.2)."""
    of = Learner(nn.Linear(4, 2, bias=False).double(), ("weight",))
    none = torch.zeros(0, 4, dtype=torch.float64)
    start = (torch.zeros(2, 4, dtype=torch.float64),)
    training = Training(of, start, none, torch.zeros(0).long(), torch.tensor([0]), 1.0, 1)
    c = torch.tensor([3.0, 4.0, -5.0, -4.0], dtype=torch.float64)
    free = torch.tensor([[0.2, 1.0, 0.0, 1.0]], dtype=torch.float64)
    moved, value = _climb(training, free, lambda weights: c @ weights[0][0], "unrolled", 1, 0.25)
    wanted = torch.tensor([[0.35, 1.0, 0.0, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(moved, wanted)
    assert value == pytest.approx(float(wanted[0] @ c) / 2)


def test_one_label_for_all_is_wrong_for_all():
    """Where all validation rows have the first class, it is the second's turn at once."""
    valid = Samples(SHOP.held_out.x, torch.zeros_like(SHOP.held_out.y), 2)
    shop = Workshop(SHOP.clean, RECIPE, lambda n: [], valid)
    made = back_gradient(
        shop, PoisonBudget(0.1), rng=generator(0), labels="one for all", outer_steps=0, **HOW
    )
    assert made.y.eq(1).all()
    with pytest.raises(UsageError, match="'each its own' with goal 'specific'"):
        back_gradient(SHOP, PoisonBudget(0.1), rng=generator(0), goal="specific", labels="one for all")


@pytest.mark.parametrize("spare", [blobs(seed=1), None], ids=["validation rows", "none"])
def test_all_known_rows_are_the_validation_rows_and_the_training_rows_that_stay(spare):
    """Points that do not move: what is reported is the loss, on those rows, of the training that seed 0 draws."""
    shop, seen = Workshop(SHOP.clean, RECIPE, lambda n: [], spare), []
    made = back_gradient(
        shop, PoisonBudget(0.1), rng=generator(0), measured="all known", outer_steps=0, refine_steps=0,
        together=4, tick=lambda step, total, values: seen.append(values["loss"]), **HOW,
    )  # fmt: skip
    rng = generator(0)
    torch.randperm(40, generator=rng)
    of = untrained(RECIPE, shop.clean.x.double(), rng)
    keep = torch.ones(40, dtype=torch.bool)
    keep[made.rows] = False
    stay = shop.clean[keep]
    x, y = torch.cat([stay.x, made.x]).double(), torch.cat([stay.y, made.y])
    weights = descend(of, of.start(), x, y, HOW["rate"], HOW["inner_steps"])
    known = [stay] if spare is None else [spare, stay]
    wanted = of.loss(weights, torch.cat([k.x for k in known]).double(), torch.cat([k.y for k in known]))
    assert seen == [pytest.approx(float(wanted))]


def deep() -> nn.Module:
    """A net of two layers, whose gradients grow with its weights."""
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def test_training_that_diverges_is_an_error_and_no_poison_that_does_nothing():
    shop = Workshop(SHOP.clean, Recipe(deep, "two layers"), lambda n: [], SHOP.held_out)
    with pytest.raises(UsageError, match=r"rate: .* diverged; expected a lower one, got 1e\+100"):
        back_gradient(shop, PoisonBudget(0.1), rng=generator(0), inner_steps=20, rate=1e100, outer_steps=1)


def test_a_specific_poison_starts_at_the_source_and_has_the_label_wished_for():
    made = back_gradient(
        SHOP, PoisonBudget(0.1), rng=generator(0), goal="specific", source=1, wish=0, outer_steps=2, **HOW
    )
    assert made.y.eq(0).all()
    with pytest.raises(NotApplicable, match="no class"):
        back_gradient(SHOP, PoisonBudget(0.1), rng=generator(0), goal="specific", source=1, wish=1, **HOW)


@pytest.mark.slow
def test_a_specific_poison_confuses_its_pair_and_spares_the_others():
    """The bar of the error-specific attack: ten digits, 10% poison, eights to be read as threes."""
    train, test = digits()
    train, valid, judged = train[slice(0, 300)], test[slice(0, 200)], test[slice(200, None)]
    recipe = softmax_regression(10)
    shop = Workshop(train, recipe, lambda n: [], valid)
    made = back_gradient(
        shop, PoisonBudget(0.1), rng=generator(0), goal="specific", source=8, wish=3, inner_steps=100,
        rate=0.3, outer_steps=3, together=5,
    )  # fmt: skip
    read = {
        name: recipe(data, rng=generator(0)).predict(judged.x).argmax(1)
        for name, data in (("clean", train), ("poisoned", made.apply(train)))
    }
    eights = judged.y == 8
    assert float((read["poisoned"][eights] == 3).double().mean()) >= 0.3
    lost = (read["poisoned"] != judged.y).double() - (read["clean"] != judged.y).double()
    assert float(lost[~eights].mean()) <= 0.03


@pytest.mark.slow
def test_it_costs_clearly_more_than_as_many_wrong_labels_at_random():
    """The scene's bar asks for more: a drop of 8 points."""
    (proof,) = prove(["back-gradient optimization"], workers=1)
    assert proof.attack is not None, proof.error
    assert proof.baseline is not None
    assert proof.attack.low > proof.baseline.high
    assert proof.attack.value > max(0.05, 1.5 * proof.baseline.value)
