"""Cutting pictures into blocks and putting them together in another order, each turned a little."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

OUTSIDE = -3.0  # a place from which no pixel is reached


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
    (grid,) = origins(draws[:, None].to(x), (x.shape[2], x.shape[3]), blocks, degrees)
    return looked_up(x, grid)


def looked_up(x: Tensor, grid: Tensor) -> Tensor:
    """Mix each pixel of pictures x (N, C, H, W) from the four around where `grid` says it comes from."""
    return torch.nn.functional.grid_sample(x, grid, "bilinear", "zeros", align_corners=False)


def origins(draws: Tensor, sides: tuple[int, int], blocks: int, degrees: float) -> Iterator[Tensor]:
    """Tell, copy by copy, where each pixel of rearranged pictures comes from (see `rearranged`).

    Args:
        draws: uniform numbers in [0, 1), (N, copies, draws_of(blocks)).
        sides: height and width of the pictures.
        blocks: strips, and blocks in each of them.
        degrees: largest angle to either side.

    Yields:
        For each copy the places (N, H, W, 2), across and down, from -1 at one edge to 1 at the other;
        far outside for a pixel that comes from nowhere.
    """
    draws = draws.transpose(0, 1)
    lying = draws[:, :, 0] < 0.5
    # tables are small and made for all copies at once; places for each copy, so that they stay in the cache
    level = _strips(draws[lying][:, 1:], *sides, blocks, degrees)
    # strips from top to bottom are level ones of the transposed picture
    upright = _strips(draws[~lying][:, 1:], *sides[::-1], blocks, degrees)
    done = [0, 0]
    for order, count in zip(
        lying.int().argsort(dim=1, descending=True, stable=True), lying.sum(1).tolist(), strict=True
    ):
        places = draws.new_empty(len(order), *sides, 2)
        across, down = places.unbind(3)
        _place(level, done[0], down[:count], across[:count])
        _place(upright, done[1], across[count:].transpose(1, 2), down[count:].transpose(1, 2))
        done = [done[0] + count, done[1] + len(order) - count]
        yield places.index_select(0, order.argsort())


class _Strips(NamedTuple):
    """Tables of M pictures cut into n strips, one below the other, and these into blocks.

    Row v of strip s takes its pixel in column u from down[s, u] v + down[n + s, u] and, likewise, across.
    All places are counted from -1 at one edge of the old picture to 1 at the other.

    Attributes:
        rows: v in the strip's column and 1 in its second one, else 0, (M, H, 2n).
        down: (M, 2n, W).
        across: (M, 2n, W).
        top: middle of the first row of the strip that a row comes from, (M, H, 1).
        bottom: middle of the last.
        left: middle of the first column of the block that a pixel comes from, (M, n, W).
        right: middle of the last.
    """

    rows: Tensor
    down: Tensor
    across: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


def _strips(draws: Tensor, height: int, width: int, n: int, degrees: float) -> _Strips:
    """Cut, shuffle and turn, by draws (M, 2n + 3n^2)."""
    cut, order, cuts, orders, turns = draws.split([n, n, n * n, n * n, n * n], 1)
    strip, *strips = _laid(_lengths(cut, height), order.argsort(1), height)
    first, tall = (part.gather(1, strip)[:, :, None] for part in strips[:2])
    top, high, y = (part[:, :, None] for part in strips)
    cuts, orders, turns = (part.unflatten(1, (n, n)) for part in (cuts, orders, turns))
    block, *blocks = _laid(_lengths(cuts, width), orders.argsort(2), width)
    angle = (2 * turns - 1) * math.radians(degrees)
    # of each block, and then of each pixel of a row of its strip
    left, wide, x, cos, sin = (part.gather(2, block) for part in (*blocks, angle.cos(), angle.sin()))
    v, u = (torch.arange(side, dtype=draws.dtype, device=draws.device) + 0.5 for side in (height, width))
    # each block turns around its middle
    beside, above = u - x - wide / 2, y + high / 2
    fall = top + high / 2 - cos * above - sin * beside
    shift = left + wide / 2 - sin * above + cos * beside
    own = (strip[:, :, None] == torch.arange(n, device=draws.device)).to(draws)
    down, across = 2 / height, 2 / width
    return _Strips(
        rows=torch.cat([own * v[:, None], own], 2),
        down=torch.cat([cos * down, fall * down - 1], 1),
        across=torch.cat([sin * across, shift * across - 1], 1),
        top=(first + 0.5) * down - 1,
        bottom=(first + tall - 0.5) * down - 1,
        left=(left + 0.5) * across - 1,
        right=(left + wide - 0.5) * across - 1,
    )


def _place(strips: _Strips, begin: int, down: Tensor, across: Tensor) -> None:
    """Write into `down` and `across` (K, H, W) where pixels of the K pictures from row `begin` on come from."""
    rows, *tables, top, bottom, left, right = (table[begin : begin + len(down)] for table in strips)
    own = rows[:, :, rows.shape[2] // 2 :]
    edges = (top, bottom), (own @ left, own @ right)
    places, far = [], []
    for table, (low, high), side in zip(tables, edges, down.shape[1:], strict=True):
        place = rows @ table
        # no further out than the middles of the outermost pixels, or a neighbour would shine in
        places.append(place.maximum(low).minimum(high))
        # half a pixel further a block ends
        far.append(place.sub_(places[-1]).abs_() > 1 / side)
    down.copy_(places[0].masked_fill_(far[0] | far[1], OUTSIDE))
    across.copy_(places[1])


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
    # in a loop: libraries are slow at sums over so few
    position = torch.zeros_like(order[..., :1])
    for end in ends.unbind(-1):
        position = position + (pixel >= end[..., None])
    begins = torch.zeros_like(ends).scatter(-1, order, ends - placed)
    return order.gather(-1, position), lengths.cumsum(-1) - lengths, lengths, begins
