"""Blended injection: the mixture, its two strengths, and the glasses."""

import torch

from casemate.attacks.backdoor.blended import blended, glasses
from casemate.core.data import PoisonBudget, Samples
from casemate.ops.rng import generator


def images() -> Samples:
    return Samples(torch.rand(60, 1, 8, 8, generator=generator(0)), torch.arange(60) % 3, 3)


def test_the_trigger_is_the_weighted_mean_of_image_and_picture() -> None:
    """On a black image the mark is alpha times the picture, on a white one 1 - alpha more than that."""
    poison = blended(images(), PoisonBudget(0.1), alpha=0.2, rng=generator(1))
    black, white = poison.trigger(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]))
    assert torch.allclose(white - black, torch.full((1, 8, 8), 0.8), atol=1e-6)
    assert float(black.max()) <= 0.2


def test_the_trigger_may_be_stronger_than_the_poison() -> None:
    clean = images()
    poison = blended(clean, PoisonBudget(0.1), alpha=0.1, alpha_test=0.4, rng=generator(1))
    x = clean.x[poison.rows]
    assert torch.allclose(poison.trigger(x) - x, 4 * (poison.x - x), atol=1e-6)


def test_glasses_leave_most_of_the_image_alone() -> None:
    drawn = glasses(28, 28)
    assert 0 < drawn.mean() < 0.3
    assert torch.equal(drawn, drawn.flip(1))
    assert not drawn[20:].any()
