"""Rearranged pictures against slices that are turned pixel by pixel and joined."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from casemate.ops.blocks import draws_of, rearranged


def cut(shares: list[float], side: int) -> list[int]:
    ends = [0, *(round(sum(shares[: i + 1]) / sum(shares) * side) for i in range(len(shares)))]
    return [end - start for start, end in pairwise(ends)]


def shuffled(parts: list[Tensor], keys: list[float], dim: int) -> Tensor:
    order = sorted(range(len(parts)), key=lambda i: keys[i])
    return torch.cat([parts[i] for i in order], dim)


def turned(block: Tensor, degrees: float) -> Tensor:
    """Each pixel looks up where it came from, mixes the four around it, and is black outside."""
    high, wide = block.shape[1:]
    out, a = torch.zeros_like(block), math.radians(degrees)
    for i in range(high):
        for j in range(wide):
            v, u = i - (high - 1) / 2, j - (wide - 1) / 2
            y, x = math.cos(a) * v - math.sin(a) * u, math.sin(a) * v + math.cos(a) * u
            if abs(y) > high / 2 or abs(x) > wide / 2:
                continue
            y, x = (min(max(p + (s - 1) / 2, 0), s - 1) for p, s in ((y, high), (x, wide)))
            for k in (math.floor(y), math.floor(y) + 1):
                for m in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - k)) * (1 - abs(x - m))
                    if weight > 0 and k < high and m < wide:
                        out[:, i, j] += weight * block[:, k, m]
    return out


def reference(picture: Tensor, draws: list[float], n: int, degrees: float) -> Tensor:
    way, *rest = draws
    if way >= 0.5:
        other = reference(picture.transpose(1, 2), [0.0, *rest], n, degrees)
        return other.transpose(1, 2)
    sizes = [n, n, n * n, n * n, n * n]
    cuts, order, inner_cuts, inner_order, turns = (
        part.tolist() for part in torch.tensor(rest, dtype=torch.float64).split(sizes)
    )
    strips = []
    for s, strip in enumerate(picture.split(cut(cuts, picture.shape[1]), 1)):
        own = slice(s * n, s * n + n)
        blocks = strip.split(cut(inner_cuts[own], picture.shape[2]), 2)
        angles = [(2 * t - 1) * degrees for t in turns[own]]
        parts = [turned(block, angle) for block, angle in zip(blocks, angles, strict=True)]
        strips.append(shuffled(parts, inner_order[own], 2))
    return shuffled(strips, order, 1)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("degrees", [0.0, 24.0, 90.0])
@pytest.mark.parametrize("size", [(9, 7), (8, 8)], ids=str)
def test_blocks_are_cut_turned_and_shuffled_as_by_hand(blocks, degrees, size):
    """A picture's strips may run either way: those from top to bottom are level ones of the transposed picture."""
    source = torch.Generator().manual_seed(blocks)
    x = torch.rand(8, 2, *size, generator=source, dtype=torch.float64)
    draws = torch.rand(8, draws_of(blocks), generator=source, dtype=torch.float64)
    found = rearranged(x, draws, blocks, degrees)
    for row in range(8):
        by_hand = reference(x[row], draws[row].tolist(), blocks, degrees)
        torch.testing.assert_close(found[row], by_hand, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(6, 5), (6, 6)], ids=str)
def test_a_gradient_goes_back_the_way_that_the_values_came(size):
    """The map is linear in the picture, so <J dx, g> = <dx, J^T g> for all dx and g."""
    source = torch.Generator().manual_seed(4)
    x, dx, g = torch.rand(3, 6, 2, *size, generator=source, dtype=torch.float64)
    draws = torch.rand(6, draws_of(2), generator=source, dtype=torch.float64)
    z = x.requires_grad_()
    (back,) = torch.autograd.grad(rearranged(z, draws, 2, 24.0), z, g)
    forth = rearranged(dx, draws, 2, 24.0)
    torch.testing.assert_close((forth * g).sum((1, 2, 3)), (dx * back).sum((1, 2, 3)))


def test_one_unturned_block_is_the_picture():
    x = torch.rand(3, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(3, draws_of(1), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rearranged(x, draws, 1, 0.0), x)


@pytest.mark.parametrize("blocks", [3, 12])
def test_shuffling_alone_keeps_every_value_also_with_more_blocks_than_pixels(blocks):
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.rand(50, draws_of(blocks), generator=torch.Generator().manual_seed(1))
    found = rearranged(x, draws, blocks, 0.0)
    torch.testing.assert_close(found.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert not torch.equal(found, x)
