"""What printing and photographing do to pictures, as differentiable functions of a batch."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def rounded(x: Tensor) -> Tensor:
    """Round to integers, with the gradient of the identity."""
    return x + (x.round() - x).detach()


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


LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# luminance, blue and red difference of red, green and blue (ITU-R BT.601, as JPEG has it)
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Compress pictures x (B, 1 or 3, H, W) in [0, 1] as JPEG does, with a gradient.

    Blocks of 8 x 8 are transformed, divided by the standard tables at `quality` (B,), 1 to 100, and
    rounded; colour differences have half the resolution. Rounding has the gradient of the identity.
    """
    height, width = x.shape[2:]
    block = 8 if x.shape[1] == 1 else 16
    pads = (0, -width % block, 0, -height % block)
    levels = functional.pad(255 * x, pads, "replicate")
    if x.shape[1] == 1:
        back = _coded(levels - 128, quality, LUMA) + 128
    else:
        mix = levels.new_tensor(YCC)
        parts = torch.einsum("ij,bjhw->bihw", mix, levels)
        luma = _coded(parts[:, :1] - 128, quality, LUMA) + 128
        small = _coded(functional.avg_pool2d(parts[:, 1:], 2), quality, CHROMA)
        chroma = functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        back = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mix), torch.cat([luma, chroma], 1))
    return back[:, :, :height, :width].clamp(0, 255) / 255


def _coded(planes: Tensor, quality: Tensor, table: tuple[tuple[int, ...], ...]) -> Tensor:
    """Round the cosine transforms of 8 x 8 blocks of planes (B, C, H, W) to multiples of the table."""
    b, c, h, w = planes.shape
    cosines = _cosines(planes)
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    divisors = _divisors(quality, planes.new_tensor(table))[:, None, None, None]
    kept = rounded((cosines @ blocks @ cosines.t()) / divisors) * divisors
    return (cosines.t() @ kept @ cosines).transpose(3, 4).reshape(b, c, h, w)


def _cosines(like: Tensor) -> Tensor:
    """Orthonormal cosine transform of 8 values, as a matrix."""
    at = torch.arange(8, dtype=like.dtype, device=like.device)
    matrix = torch.cos(math.pi / 8 * at[:, None] * (at + 0.5)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def _divisors(quality: Tensor, table: Tensor) -> Tensor:
    """Scale a table to qualities (B,) as the Independent JPEG Group does: (B, 8, 8)."""
    q = quality.to(table).round().clamp(1, 100)
    scale = torch.where(q < 50, torch.floor(5000 / q), 200 - 2 * q)
    return torch.floor((table * scale[:, None, None] + 50) / 100).clamp(1, 255)
