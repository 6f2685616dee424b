"""Cutting pictures into blocks and putting them together in another order, each turned a little."""

import math

import torch
from torch import Tensor


def draws_of(blocks: int) -> int:
    """Count the random numbers that one picture's cutting takes."""
    return 1 + 2 * blocks + 3 * blocks**2


def rearranged(x: Tensor, draws: Tensor, blocks: int, degrees: float) -> Tensor:
    """Cut pictures into strips and the strips into blocks; shuffle both, and turn each block.

    Args:
        x: pictures (N, C, H, W).
        draws: uniform numbers in [0, 1), (N, draws_of(blocks)): which way the strips run, where they are
            cut and in which order they return, the same for the blocks of each strip, and the angles.
        blocks: strips, and blocks in each of them.
        degrees: largest angle to either side.

    Returns:
        Pictures (N, C, H, W); bilinear, black where a turned block does not reach.
    """
    draws, out = draws.to(x), torch.empty_like(x)
    level = draws[:, 0] < 0.5
    for rows, side in ((level, 2), (~level, 3)):
        # strips from top to bottom are level ones of the transposed picture
        lying = x[rows].transpose(side, 2)
        out[rows] = _rearranged(lying, draws[rows, 1:], blocks, degrees).transpose(side, 2)
    return out


def _rearranged(x: Tensor, draws: Tensor, n: int, degrees: float) -> Tensor:
    """Do it with strips that lie one below the other."""
    height, width = x.shape[2:]
    cut, order, cuts, orders, turns = draws.split([n, n, n * n, n * n, n * n], 1)
    strip, *rows = _laid(_lengths(cut, height), order.argsort(1), height)
    block, *columns = _laid(
        _lengths(cuts.unflatten(1, (n, n)), width), orders.unflatten(1, (n, n)).argsort(2), width
    )
    # which of the n * n blocks comes to lie at each pixel, (N, H, W)
    owner = n * strip[:, :, None] + block.gather(1, strip[:, :, None].expand(-1, -1, width))
    first = n * n * torch.arange(len(x), device=x.device)[:, None, None]
    top, high, y = (part[:, :, None].expand(-1, -1, n) for part in rows)
    left, wide, z = columns
    table = _moves(top, high, y, left, wide, z, turns, degrees)
    cos, sin, fall, shift, top, left, bottom, right = (
        table.flatten(0, 1).index_select(0, (owner + first).flatten()).view(*owner.shape, 8).unbind(3)
    )
    v, u = (torch.arange(side, dtype=x.dtype, device=x.device) + 0.5 for side in (height, width))
    v = v[:, None]
    down, across = cos * v - sin * u + fall, sin * v + cos * u + shift
    inside = (down >= top) & (down <= bottom) & (across >= left) & (across <= right)
    # no further out than the middles of the outermost pixels, or a neighbour would shine in
    down = down.maximum(top + 0.5).minimum(bottom - 0.5)
    across = across.maximum(left + 0.5).minimum(right - 0.5)
    grid = torch.stack([across / width, down / height], -1) * 2 - 1
    picture = torch.nn.functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    return picture * inside[:, None].to(x.dtype)


def _moves(
    top: Tensor, high: Tensor, y: Tensor, left: Tensor, wide: Tensor, x: Tensor, turns: Tensor, degrees: float
) -> Tensor:
    """Tell for each block how to get from a pixel to where it came from, and the block's edges there.

    Args:
        top: upper edges in the old picture, (N, n, n), in pixels.
        high: heights.
        y: upper edges in the new picture.
        left: left edges in the old picture.
        wide: widths.
        x: left edges in the new picture.
        turns: angles (N, n * n), 0 .. 1.
        degrees: largest angle to either side.

    Returns:
        (N, n * n, 8): cosine, sine, what is added downwards and across, and the four edges.
    """
    angle = (2 * turns.view_as(top) - 1) * math.radians(degrees)
    cos, sin = angle.cos(), angle.sin()
    # each block turns around its middle
    v, u = y + high / 2, x + wide / 2
    fall = top + high / 2 - cos * v + sin * u
    shift = left + wide / 2 - sin * v - cos * u
    return torch.stack([cos, sin, fall, shift, top, left, top + high, left + wide], 3).flatten(1, 2)


def _lengths(shares: Tensor, side: int) -> Tensor:
    """Whole lengths (..., n), none negative, in proportion to `shares` that fill a side."""
    ends = (shares.cumsum(-1) / shares.sum(-1, keepdim=True) * side).round()
    return ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def _laid(lengths: Tensor, order: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay pieces of `lengths` (..., n) along a side in the given order.

    Gives the piece at each pixel of the side (..., side), and for each piece where it began, how long it
    is, and where it begins now (..., n).
    """
    placed = lengths.gather(-1, order)
    ends = placed.cumsum(-1)
    pixel = torch.arange(side, dtype=lengths.dtype, device=lengths.device)
    position = (pixel[:, None] >= ends[..., None, :]).sum(-1)
    begins = torch.zeros_like(ends).scatter(-1, order, ends - placed)
    return order.gather(-1, position), lengths.cumsum(-1) - lengths, lengths, begins
