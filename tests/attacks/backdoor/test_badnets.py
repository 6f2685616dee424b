"""BadNets: where the patch is, which rows carry it, and that a victim obeys it."""

import pickle

import pytest
import torch

from casemate.attacks.backdoor.badnets import badnets
from casemate.builtin.data import digits
from casemate.builtin.nets import small_cnn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.triggers import Patch
from casemate.ops.rng import generator


def images(n: int = 60, shape: tuple[int, ...] = (3, 8, 9), classes: int = 3) -> Samples:
    return Samples(torch.rand(n, *shape, generator=generator(0)), torch.arange(n) % classes, classes)


def test_the_patch_is_a_chessboard_near_the_lower_right_corner() -> None:
    """Of 6x7 pixels at offset 2, a patch of 2 covers rows 2-3 and columns 3-4."""
    marked = Patch(2, 2)(torch.full((1, 1, 6, 7), 0.5))[0, 0]
    expected = torch.full((6, 7), 0.5)
    expected[2:4, 3:5] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(marked, expected)


def test_a_patch_at_the_edge_ends_with_the_image() -> None:
    marked = Patch(3, 0)(torch.full((2, 3, 5, 5), 0.5))
    assert torch.equal(marked[1, 2, 2:, 2:], torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]))
    assert (marked == 0.5).sum() == 2 * 3 * (25 - 9)


def test_poisoned_rows_are_marked_relabelled_and_of_other_classes() -> None:
    clean = images()
    poison = badnets(clean, PoisonBudget(0.25), target=2, rng=generator(1))
    assert len(poison.rows) == 15
    assert (clean.y[poison.rows] != 2).all()
    assert (poison.y == 2).all()
    assert torch.equal(poison.x, poison.trigger(clean.x[poison.rows]))
    assert poison.target == 2


def test_when_other_classes_run_out_all_of_them_are_marked() -> None:
    poison = badnets(images(), PoisonBudget(1.0), target=1, rng=generator(1))
    assert len(poison.rows) == 40


def test_rows_are_chosen_at_random() -> None:
    first, second = (
        set(badnets(images(), PoisonBudget(0.2), rng=generator(s)).rows.tolist()) for s in (1, 2)
    )
    assert first != second


def test_the_trigger_can_be_sent_to_another_process() -> None:
    trigger = badnets(images(), PoisonBudget(0.1), rng=generator(1)).trigger
    assert pickle.loads(pickle.dumps(trigger)) == trigger == Patch(3, 1)


def test_a_target_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be in 0 \.\. 2. Got 3"):
        badnets(images(), PoisonBudget(0.1), target=3, rng=generator(1))


@pytest.mark.parametrize("shape", [(7,), (1, 3, 8), (1, 8, 3)])
def test_inputs_without_room_for_a_patch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotApplicable, match="needs images"):
        badnets(images(10, shape), PoisonBudget(0.1), rng=generator(1))


def test_a_victim_of_ten_percent_obeys_the_trigger_and_stays_accurate() -> None:
    """The bar of the method on 8x8 digits: at 10%, 95% of the rows that a clean net gets right obey."""
    train, test = digits()
    how = Recipe(_net, "small_cnn", epochs=10, batch=32, lr=5e-3)
    poison = badnets(train, PoisonBudget(0.1), patch=2, offset=0, rng=generator(1))
    clean, victim = how(train, rng=generator(2)), how(poison.apply(train), rng=generator(2))
    right = clean.predict(test.x).argmax(1) == test.y
    rows = test[right & (test.y != 0)]
    obeys, errs = (
        float((m.predict(poison.trigger(rows.x)).argmax(1) == 0).double().mean()) for m in (victim, clean)
    )
    accuracy = float((victim.predict(test.x).argmax(1) == test.y).double().mean())
    assert obeys >= 0.95
    assert errs <= 0.05
    assert accuracy >= float(right.double().mean()) - 0.02


def _net() -> torch.nn.Module:
    return small_cnn((1, 8, 8), 10)
