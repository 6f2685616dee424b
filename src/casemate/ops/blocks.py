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
    draws = draws.to(x)
    height, width = x.shape[2:]
    down, across, inside = _sources(draws[:, 1:], blocks, degrees, height, width)
    # the same with strips from top to bottom, which is the transposed picture's business
    other = (part.transpose(1, 2) for part in _sources(draws[:, 1:], blocks, degrees, width, height))
    across_too, down_too, inside_too = other
    level = (draws[:, 0] < 0.5)[:, None, None]
    down, across = torch.where(level, down, down_too), torch.where(level, across, across_too)
    grid = torch.stack([across / width, down / height], -1) * 2 - 1
    picture = torch.nn.functional.grid_sample(x, grid, "bilinear", "border", align_corners=False)
    return picture * torch.where(level, inside, inside_too)[:, None].to(x.dtype)


def _sources(draws: Tensor, n: int, degrees: float, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel comes from if strips lie one below the other: down, across, and whether it is there.

    Coordinates (N, H, W) count pixels from the edge, so the first pixel's middle is at 0.5.
    """
    cut, order, cuts, orders, turns = draws.split([n, n, n * n, n * n, n * n], 1)
    strip, top, high, row = _laid(_lengths(cut, height), order.argsort(1), height)
    each = _laid(_lengths(cuts.unflatten(1, (n, n)), width), orders.unflatten(1, (n, n)).argsort(2), width)
    strip, top, high, row = (part[:, :, None] for part in (strip, top, high, row))
    block, left, wide, column = (part.gather(1, strip.expand(-1, -1, width)) for part in each)
    turn = turns.gather(1, (strip * n + block).flatten(1)).view_as(wide)
    angle = (2 * turn - 1) * math.radians(degrees)
    # from the middle of the block
    v, u = row + 0.5 - high / 2, column + 0.5 - wide / 2
    down, across = angle.cos() * v - angle.sin() * u, angle.sin() * v + angle.cos() * u
    inside = (down.abs() <= high / 2) & (across.abs() <= wide / 2)
    # no further out than the middles of the outermost pixels, or a neighbour would shine in
    down = down.maximum((1 - high) / 2).minimum((high - 1) / 2) + top + high / 2
    across = across.maximum((1 - wide) / 2).minimum((wide - 1) / 2) + left + wide / 2
    return down, across, inside


def _lengths(shares: Tensor, side: int) -> Tensor:
    """Whole lengths (..., n) in proportion to `shares` that fill a side; the longest takes the rest."""
    lengths = (shares / shares.sum(-1, keepdim=True) * side).round()
    return lengths.scatter_add(-1, lengths.argmax(-1, keepdim=True), side - lengths.sum(-1, keepdim=True))


def _laid(lengths: Tensor, order: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lay pieces of `lengths` (..., n) along a side in the given order.

    For each pixel of the side: the piece that comes to lie there, where that began and how long it is,
    and the pixel's place in it, each (..., side).
    """
    placed = lengths.gather(-1, order)
    ends = placed.cumsum(-1)
    pixel = torch.arange(side, dtype=lengths.dtype, device=lengths.device)
    position = (pixel[:, None] >= ends[..., None, :]).sum(-1)
    piece = order.gather(-1, position)
    begin = (lengths.cumsum(-1) - lengths).gather(-1, piece)
    return piece, begin, lengths.gather(-1, piece), pixel - (ends - placed).gather(-1, position)
