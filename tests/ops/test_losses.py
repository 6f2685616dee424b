"""Losses against their formulas written out, and the promises of scale and shift."""

import pytest
import torch
from torch import Tensor, nn

from casemate.ops.losses import (
    WIDE,
    dlr,
    error_odds,
    margin,
    others,
    picked,
    steering_odds,
    targeted_dlr,
)

LOGITS = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 1.0, -2.0]], dtype=torch.float64)
Y = torch.tensor([0, 2])
UNTARGETED = pytest.mark.parametrize("loss", [error_odds, steering_odds, margin, dlr])


def slope(loss, logits: Tensor, *classes: Tensor) -> Tensor:
    z = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(z, *classes).sum(), z)
    return grad


def draw(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=g, dtype=torch.float64), torch.randint(
        classes, (n,), generator=g
    )


def test_picked_and_others_part_the_logits():
    assert picked(LOGITS, Y).tolist() == [2.0, 1.0]
    assert others(LOGITS, Y).amax(1).tolist() == [1.0, 3.0]
    assert others(LOGITS, Y).gather(1, Y[:, None]).isneginf().all()


def test_margin_by_hand():
    """Largest other minus own: 1 - 2 and 3 - 1."""
    assert margin(LOGITS, Y).tolist() == [-1.0, 2.0]


def test_dlr_by_hand():
    """-(z_y - max other) / (z_1 - z_3): row 0 (1 - 2) / (2 - 0.5), row 1 (3 - 1) / (3 - 0)."""
    torch.testing.assert_close(dlr(LOGITS, Y), torch.tensor([-1 / 1.5, 2 / 3], dtype=torch.float64))


def test_targeted_dlr_by_hand():
    """(z_t - z_y) / (z_1 - (z_3 + z_4) / 2), towards class 3.

    Row 0: (0.5 - 2) / (2 - (0.5 - 1) / 2) = -1.5 / 2.25; row 1: (-2 - 1) / (3 - (0 - 2) / 2) = -3 / 4.
    """
    t = torch.tensor([3, 3])
    expected = torch.tensor([-1.5 / 2.25, -0.75], dtype=torch.float64)
    torch.testing.assert_close(targeted_dlr(LOGITS, Y, t), expected)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_cross_entropy_is_the_softplus_of_the_error_odds(classes):
    """-log p_y = log(1 + (1 - p_y) / p_y) = softplus(log-odds of error)."""
    z, y = draw(20, classes)
    ce = nn.functional.cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(error_odds(z, y)), ce)


def test_the_gradients_of_error_odds_and_cross_entropy_point_the_same_way():
    z, y = draw(20, 5)
    ce = slope(lambda a, b: nn.functional.cross_entropy(a, b, reduction="sum"), z, y)
    odds = slope(error_odds, z, y)
    torch.testing.assert_close(nn.functional.normalize(odds), nn.functional.normalize(ce))


def test_the_sign_of_margin_and_dlr_tells_whether_the_class_is_lost():
    z, y = draw(50, 6)
    wrong = z.argmax(1) != y
    assert torch.equal(margin(z, y) > 0, wrong)
    assert torch.equal(dlr(z, y) > 0, wrong)


@UNTARGETED
@pytest.mark.parametrize("shift", [-50.0, 1e3])
def test_G1_a_shift_of_all_logits_changes_no_loss(loss, shift):
    z, y = draw(20, 6)
    torch.testing.assert_close(loss(z + shift, y), loss(z, y), rtol=0, atol=1e-9)


@UNTARGETED
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e6])
def test_G2_no_float32_row_loses_its_gradient_to_large_logits(loss, scale):
    """Class 0 wins by up to 1e7: cross-entropy's own float32 gradient would be exactly 0."""
    z, _ = draw(20, 6)
    z[:, 0] = z.amax(1) + 10
    y = torch.zeros(20, dtype=torch.int64)
    steep = slope(loss, (z * scale).float(), y).double()
    steep = steep * scale if loss is dlr else steep
    assert (steep.abs().amax(1) > 0.01).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_G2_dlr_does_not_change_with_the_scale_of_the_logits(scale):
    z, y = draw(20, 6)
    t = (y + 1) % 6
    torch.testing.assert_close(dlr(scale * z, y), dlr(z, y))
    torch.testing.assert_close(targeted_dlr(scale * z, y, t), targeted_dlr(z, y, t))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 100])
def test_G4_every_loss_rises_with_another_class_and_falls_with_its_own(classes):
    """For any number of classes; `dlr` compares its numerator only, whose scale is fixed by z_1 - z_3."""
    z, y = draw(30, classes)
    for loss in (error_odds, margin):
        grad = slope(loss, z, y)
        assert (picked(grad, y) < 0).all()
        assert (others(grad, y).amax(1) > 0).all()
    assert dlr(z, y).isfinite().all()
    assert targeted_dlr(z, y, (y + 1) % classes).isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_equal_logits_give_finite_losses_and_gradients(classes):
    z, y = torch.zeros(4, classes), torch.zeros(4, dtype=torch.int64)
    for loss in (error_odds, margin, dlr):
        assert loss(z, y).isfinite().all()
        assert slope(loss, z, y).isfinite().all()


def test_G5_the_targeted_ratio_rises_with_the_target():
    """While `y` is best. Where t is third, d/dt of -(z_1 - z_t) / D is (z_1 - z_4) / (2 D^2) > 0."""
    z, _ = draw(30, 10)
    y = z.argmax(1)
    for step in range(1, 10):
        t = (y + step) % 10
        higher = z.scatter_add(1, t[:, None], torch.full((30, 1), 1e-6, dtype=torch.float64))
        assert (targeted_dlr(higher, y, t) > targeted_dlr(z, y, t)).all()


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("scale", [1, 10, 1000])
def test_the_value_of_steering_odds_is_that_of_error_odds(classes, scale):
    z = scale * torch.randn(50, classes, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(50) % classes
    torch.testing.assert_close(steering_odds(z, y), error_odds(z, y))


def test_the_slope_of_steering_odds_is_that_of_error_odds_until_logits_are_far_apart():
    z = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(50) % 7
    near = margin(z, y).abs() <= WIDE
    assert near.any()
    torch.testing.assert_close(slope(steering_odds, z, y)[near], slope(error_odds, z, y)[near])


def test_G2_steering_odds_point_the_same_way_whatever_the_scale_of_large_logits():
    z = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(50) % 7
    wide = 2 * WIDE * z / margin(z, y).abs()[:, None]
    torch.testing.assert_close(slope(steering_odds, 100 * wide, y), slope(steering_odds, wide, y))
    assert not torch.allclose(slope(error_odds, 100 * wide, y), slope(error_odds, wide, y), atol=1e-3)
