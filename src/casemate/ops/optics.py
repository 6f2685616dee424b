"""What printing and photographing do to pictures, as differentiable functions of a batch."""

import torch
from torch import Tensor
from torch.nn import functional


def seen_corners(angle: Tensor, zoom: Tensor, shift: Tensor, tilt: Tensor) -> Tensor:
    """Place the corners of what a camera sees on the picture.

    Args:
        angle: rotation of the picture, radians (B,).
        zoom: size of the picture in the photograph, 1 = it fills it (B,).
        shift: movement of the picture (B, 2), in picture widths.
        tilt: further displacement of each corner (B, 4, 2), in picture widths.

    Returns:
        The points (B, 4, 2) of the picture, in [-1, 1], that are seen at the photograph's corners:
        upper left, upper right, lower right, lower left.
    """
    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=angle.dtype, device=angle.device)
    cos, sin = (angle.cos() / zoom)[:, None], (angle.sin() / zoom)[:, None]
    across, down = square[:, 0], square[:, 1]
    turned = torch.stack([cos * across + sin * down, cos * down - sin * across], 2)
    return turned - 2 * shift[:, None] + 2 * tilt


def warp(x: Tensor, corners: Tensor) -> Tensor:
    """View pictures x (B, C, H, W) in perspective, so that `corners` (B, 4, 2) come to the corners.

    What lies beyond a picture continues its edge: the surroundings of a print are not known.
    """
    height, width = x.shape[2:]
    rows = _ticks(height, x).view(-1, 1).expand(height, width)
    columns = _ticks(width, x).expand(height, width)
    points = torch.stack([columns, rows, torch.ones_like(rows)], 2).view(-1, 3)
    # homographies are solved in float64 whatever the pictures' precision, because two rounding
    # errors would differ between batches
    seen = points @ _homography(corners.double()).to(x).transpose(1, 2)
    grid = (seen[..., :2] / seen[..., 2:]).view(-1, height, width, 2)
    return functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)


def _ticks(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count * 2 - 1


def _homography(corners: Tensor) -> Tensor:
    """Solve for the maps (B, 3, 3) that take the corners of the square [-1, 1]^2 to `corners`."""
    square = corners.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand_as(corners)
    one, zero = torch.ones_like(corners[..., :1]), torch.zeros_like(corners)
    plane = torch.cat([square, one], 2)
    system = torch.cat(
        [
            torch.cat([plane, zero, zero[..., :1], -corners[..., :1] * square], 2),
            torch.cat([zero, zero[..., :1], plane, -corners[..., 1:] * square], 2),
        ],
        1,
    )
    values = torch.linalg.solve(system, torch.cat([corners[..., 0], corners[..., 1]], 1))
    return torch.cat([values, one[:, 0]], 1).view(-1, 3, 3)


def blur(x: Tensor, width: Tensor) -> Tensor:
    """Blur pictures x (B, C, H, W) by a Gaussian of standard deviation `width` (B,), in pixels.

    At the edges the weights inside the picture are scaled to a sum of 1.
    """
    down, across = (_gaussian(size, width.to(x)) for size in x.shape[2:])
    return down[:, None] @ x @ across[:, None].transpose(2, 3)


def _gaussian(size: int, width: Tensor) -> Tensor:
    """Matrices (B, size, size) whose rows are the weights around each position."""
    at = torch.arange(size, dtype=width.dtype, device=width.device)
    far = (at[:, None] - at).square()
    # a width of 0 is no blur: a tenth of a pixel leaves every weight but one at 0
    return torch.softmax(-far / (2 * width.clamp(min=0.1).square()[:, None, None]), 2)
