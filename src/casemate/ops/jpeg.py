"""JPEG as a function of a batch, with a choice of gradients."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Rounding = Callable[[Tensor], Tensor]
Table = tuple[tuple[int, ...], ...]
# the example tables of the standard (ITU-T T.81, annex K): brightness and colour at quality 50
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


def rounded(x: Tensor) -> Tensor:
    """Round to integers, with the gradient of the identity."""
    return x + (x.round() - x).detach()


def softly_rounded(x: Tensor) -> Tensor:
    """Round to integers up to the cube of what is lost (Shin & Song 2017), which has a gradient."""
    nearest = x.round().detach()
    return nearest + (x - nearest) ** 3


def jpeg(x: Tensor, quality: Tensor, *, rounding: Rounding = rounded, half_colours: bool = True) -> Tensor:
    """Compress and decompress pictures x (B, 1 or 3, H, W) in [0, 1] as JPEG does.

    Blocks of 8 x 8 are transformed, divided by the standard tables at `quality` (B,), 1 to 100, and
    rounded; what loses nothing, the coding of the result, is left out. Colour differences have half the
    resolution, which encoders may choose, if `half_colours`. `rounding` decides what gradient there is.
    """
    height, width = x.shape[2:]
    halve = half_colours and x.shape[1] == 3
    block = 16 if halve else 8
    pads = (0, -width % block, 0, -height % block)
    levels = functional.pad(255 * x, pads, "replicate")
    if x.shape[1] == 1:
        back = _coded(levels - 128, quality, LUMA, rounding) + 128
    else:
        mix = levels.new_tensor(YCC)
        parts = torch.einsum("ij,bjhw->bihw", mix, levels)
        luma = _coded(parts[:, :1] - 128, quality, LUMA, rounding) + 128
        colours = functional.avg_pool2d(parts[:, 1:], 2) if halve else parts[:, 1:]
        chroma = _coded(colours, quality, CHROMA, rounding)
        if halve:
            chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
        back = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mix), torch.cat([luma, chroma], 1))
    return back[:, :, :height, :width].clamp(0, 255) / 255


def _coded(planes: Tensor, quality: Tensor, table: Table, rounding: Rounding) -> Tensor:
    """Round the cosine transforms of 8 x 8 blocks of planes (B, C, H, W) to multiples of the table."""
    b, c, h, w = planes.shape
    cosines = _cosines(planes)
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    divisors = _divisors(quality, planes.new_tensor(table))[:, None, None, None]
    kept = rounding((cosines @ blocks @ cosines.t()) / divisors) * divisors
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
