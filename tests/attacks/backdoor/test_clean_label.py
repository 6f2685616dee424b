"""Clean labels: which rows change, within what ball, and how the corners look."""

from functools import partial

import pytest
import torch

from casemate.attacks.backdoor.clean_label import Corners, clean_label
from casemate.builtin.nets import small_cnn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator


def workshop(side: int = 8) -> Workshop:
    x = torch.rand(60, 1, side, side, generator=generator(0))
    clean = Samples(x, torch.arange(60) % 3, 3)
    how = Recipe(partial(small_cnn, (1, side, side), 3), "tiny", epochs=1)
    return Workshop(clean, how, lambda n: [how(clean, rng=generator(i)) for i in range(n)])


def test_only_rows_of_the_target_change_and_keep_their_label() -> None:
    shop = workshop()
    poison = clean_label(shop, PoisonBudget(0.2), target=1, steps=3, rng=generator(1))
    assert (shop.clean.y[poison.rows] == 1).all()
    assert (poison.y == 1).all()


def test_outside_the_corners_the_change_is_in_the_ball() -> None:
    shop = workshop()
    poison = clean_label(shop, PoisonBudget(0.2), eps=0.1, steps=3, patch=2, rng=generator(1))
    delta = (poison.x - shop.clean.x[poison.rows])[:, :, 2:-2]
    assert 0 < float(delta.abs().max()) <= 0.1 + 1e-6


def test_flips_leave_the_corners_as_they_are() -> None:
    marked = Corners(3, 1.0)(torch.full((1, 1, 9, 9), 0.5))
    assert torch.equal(marked, marked.flip(2))
    assert torch.equal(marked, marked.flip(3))
    assert (marked == 0.5).sum() == 81 - 4 * 9


def test_the_generative_variant_makes_images_of_the_generators_shape_only() -> None:
    poison = clean_label(workshop(28), PoisonBudget(0.1), variant="generative", rng=generator(1))
    assert poison.x.shape == (6, 1, 28, 28)
    with pytest.raises(NotApplicable, match="does not make and invert"):
        clean_label(workshop(), PoisonBudget(0.1), variant="generative", rng=generator(1))
