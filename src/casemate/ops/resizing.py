"""Making pictures smaller, as matrices for their two sides."""

import torch
from torch import Tensor


def shrunk(x: Tensor, share: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Resize pictures (N, C, H, W) to a `share` of their sides and put them on black.

    The paper enlarges pictures to as many pixels as the padded ones have. A net of a fixed input size
    takes none that are larger, so here they shrink.

    Args:
        x: pictures.
        share: of each side, (N,) in (0, 1]; sides are rounded to whole pixels.
        top: where the picture lies between the upper and the lower edge, (N,) in [0, 1).
        left: likewise between the left and the right edge.

    Returns:
        Pictures of the old size; bilinear, black around.
    """
    down, across = squeezing(x, share, top, left)
    return down @ x @ across.mT


def squeezing(x: Tensor, share: Tensor, top: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices (N, 1, H, H) and (N, 1, W, W) for the two sides of pictures (see `shrunk`)."""
    lengths = [(share * side).round().clamp(min=1).to(x) for side in x.shape[2:]]
    places = [top.to(x), left.to(x)]
    if x.shape[2] == x.shape[3]:
        # small tensors: one call costs little more for two sides than for one
        down, across = _interpolating(x.shape[2], torch.cat(lengths), torch.cat(places)).chunk(2)
    else:
        down, across = map(_interpolating, x.shape[2:], lengths, places)
    return down[:, None], across[:, None]


def _interpolating(side: int, length: Tensor, place: Tensor) -> Tensor:
    """Matrices (N, side, side) that squeeze a side into `length` pixels (N,) at a place in [0, 1)."""
    pixel = torch.arange(side, dtype=length.dtype, device=length.device)
    offset = (place * (side - length + 1)).floor()
    source = (pixel + 0.5 - offset[:, None]) * (side / length)[:, None]
    inside = ((source >= 0) & (source <= side)).to(length)
    # each new pixel mixes the two whose middles lie around it; at the edge there is only one
    away = ((source - 0.5).clamp_(0, side - 1)[:, :, None] - pixel).abs_()
    return away.neg_().add_(1).clamp_(min=0).mul_(inside[:, :, None])
