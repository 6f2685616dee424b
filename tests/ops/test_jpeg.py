"""JPEG against true files and its own transforms."""

import pytest
import torch

from casemate.core.channel import true_jpeg
from casemate.ops import optics
from casemate.ops.jpeg import jpeg, rounded, softly_rounded


def pictures(n: int = 3, channels: int = 3, size: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.rand(
        n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_close_to_true_files(channels, quality):
    """What JPEG itself changes, in pictures of an odd size, is several times as large as the difference.

    What remains is the rounding of colours to levels between the steps, about one level.
    """
    x = optics.blur(pictures(6, channels, 27).float(), torch.full((6,), 0.8))
    x = (255 * x).round() / 255
    q = torch.full((6,), float(quality))
    made, true = jpeg(x, q), true_jpeg(x, q)
    off, lost = (made - true).abs().mean() * 255, (x - true).abs().mean() * 255
    assert off < max(0.5, 0.15 * lost)


def test_each_picture_has_its_own_quality():
    x = pictures(2, 1, 16).float()[[0, 0]]
    low, high = jpeg(x, torch.tensor([10.0, 95.0]))
    assert (low - x[0]).abs().mean() > 3 * (high - x[0]).abs().mean()
    torch.testing.assert_close(jpeg(x[:1], torch.tensor([10.0]))[0], low)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_has_the_gradient_of_no_compression_in_flat_pictures(channels):
    """With roundings passed over, transform and back cancel: the sum of a block has the slope one."""
    x = torch.full((1, channels, 16, 16), 0.5, dtype=torch.float64, requires_grad=True)
    jpeg(x, torch.tensor([80.0], dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x), atol=1e-4, rtol=0)


def test_rounding_has_the_slope_one():
    x = torch.tensor([0.2, 0.7, 1.5], requires_grad=True)
    y = rounded(x)
    assert y.tolist() == [0.0, 1.0, 2.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_soft_rounding_is_exact_at_integers_and_flat_there():
    """n + (x - n)^3: at x = n + d the slope is 3 d^2."""
    x = torch.tensor([2.0, 2.25, -0.5], requires_grad=True)
    y = softly_rounded(x)
    torch.testing.assert_close(y.detach(), torch.tensor([2.0, 2 + 0.25**3, -(0.5**3)]))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 0.1875, 0.75]))
