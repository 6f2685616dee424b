"""Static, adaptive and regularised perturbations, warps and partial blends: size and shape of the marks."""

from functools import partial

import pytest
import torch

from casemate.attacks.backdoor.adaptive import adaptive
from casemate.attacks.backdoor.adaptive_blend import adaptive_blend
from casemate.attacks.backdoor.regularised_trigger import regularised_trigger
from casemate.attacks.backdoor.static import static
from casemate.attacks.backdoor.wanet import Warped, wanet
from casemate.builtin.nets import small_cnn
from casemate.core.data import PoisonBudget, Samples
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator


def images() -> Samples:
    return Samples(0.3 + 0.4 * torch.rand(60, 1, 8, 8, generator=generator(0)), torch.arange(60) % 3, 3)


def workshop() -> Workshop:
    how = Recipe(partial(small_cnn, (1, 8, 8), 3), "tiny", epochs=1)
    return Workshop(images(), how, lambda n: [how(images(), rng=generator(i)) for i in range(n)])


def test_the_static_mark_brightens_every_other_pixel() -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    trigger = static(
        Samples(x, torch.zeros(1).long(), 2), PoisonBudget(0), amplitude=0.1, rng=generator(0)
    ).trigger
    assert torch.allclose((trigger(x) - x)[0, 0, :2, :2], torch.tensor([[0.1, 0.0], [0.0, 0.1]]))


def test_the_adaptive_mark_keeps_its_share_of_the_images_norm() -> None:
    clean = images()
    poison = adaptive(workshop(), PoisonBudget(0.1), size=0.05, steps=20, rng=generator(1))
    size = (poison.x - clean.x[poison.rows]).flatten(1).norm(dim=1)
    assert (size <= 0.05 * clean.x.flatten(1).norm(dim=1).mean() * (1 + 1e-5)).all()


@pytest.mark.parametrize(("norm", "size"), [("l2", 0.3), ("linf", 0.05), ("l0", 7.0)])
def test_the_regularised_mark_keeps_its_norm(norm: str, size: float) -> None:
    clean = images()
    poison = regularised_trigger(
        workshop(), PoisonBudget(0.1), norm=norm, size=size, steps=20, rng=generator(1)
    )
    delta = (poison.x - clean.x[poison.rows])[0]
    found = {"l2": delta.norm(), "linf": delta.abs().max(), "l0": (delta.abs() > 1e-6).sum()}[norm]
    assert 0 < float(found) <= size * (1 + 1e-4)


def test_a_warp_by_a_whole_pixel_moves_the_image() -> None:
    """Control points that all say one pixel to the right fetch each value from its right neighbour."""
    x = torch.arange(16.0).view(1, 1, 4, 4) / 16
    shift = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])[None]
    assert torch.allclose(Warped(shift)(x)[..., :3], x[..., 1:], atol=1e-6)


def test_rows_in_noise_mode_keep_their_label() -> None:
    clean = images()
    poison = wanet(clean, PoisonBudget(0.2), noise=0.5, rng=generator(1))
    kept = poison.y == clean.y[poison.rows]
    assert (len(poison.rows), int(kept.sum())) == (12, 6)


def test_half_of_the_pieces_show_and_covers_keep_their_label() -> None:
    """Sixteen pieces of 2x2 pixels: eight of them, 32 pixels, change in each row."""
    clean = images()
    poison = adaptive_blend(clean, PoisonBudget(0.2), rng=generator(1))
    changed = (poison.x != clean.x[poison.rows]).flatten(1).sum(1)
    assert (changed <= 32).all()
    assert (changed >= 31).all()
    assert int((poison.y == clean.y[poison.rows]).sum()) == 6
