"""Kinds of triggers that can be recovered (see `core.inversion.Form`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


class Patches:
    """A mask that all channels share, and a pattern, both held in [0, 1] by tanh."""

    def start(self, classes: int, shape: tuple[int, ...], rng: Generator) -> list[Tensor]:
        """Draw masks and patterns evenly from [0, 1]."""
        drawn = [torch.rand(classes, c, *shape[1:], generator=rng) for c in (1, shape[0])]
        return [torch.atanh(0.98 * (2 * values - 1)) for values in drawn]

    def parts(self, free: Sequence[Tensor]) -> list[Tensor]:
        """Give masks (K, 1, H, W) and patterns (K, C, H, W)."""
        return [(f.tanh() + 1) / 2 for f in free]

    def stamp(self, free: Sequence[Tensor], x: Tensor) -> Tensor:
        """Lay each class's pattern over x (K, B, C, H, W), as far as its mask says."""
        mask, pattern = (part[:, None] for part in self.parts(free))
        return x + mask * (pattern - x)

    def size(self, free: Sequence[Tensor]) -> Tensor:
        """Sum the masks, (K,): the pixels that are covered."""
        return self.parts(free)[0].flatten(1).sum(1)

    def largest(self, shape: tuple[int, ...]) -> float:
        """Count the pixels."""
        return float(shape[1] * shape[2])


class Perturbations:
    """A value to be added in each place."""

    def start(self, classes: int, shape: tuple[int, ...], rng: Generator) -> list[Tensor]:
        """Draw faint noise: at zero a norm has no gradient."""
        return [1e-3 * torch.randn(classes, *shape, generator=rng)]

    def stamp(self, free: Sequence[Tensor], x: Tensor) -> Tensor:
        """Add each class's perturbation to x (K, B, *S)."""
        return (x + free[0][:, None]).clamp(0, 1)

    def size(self, free: Sequence[Tensor]) -> Tensor:
        """Measure l2 norms, (K,)."""
        sizes: Tensor = free[0].flatten(1).norm(dim=1)
        return sizes

    def largest(self, shape: tuple[int, ...]) -> float:
        """Measure the way from a black input to a white one."""
        return math.sqrt(math.prod(shape))


@dataclass(frozen=True)
class Warps:
    """A smooth field of shifts, given at `grid` x `grid` places and interpolated between them."""

    grid: int = 4

    def start(self, classes: int, shape: tuple[int, ...], rng: Generator) -> list[Tensor]:
        """Draw shifts of a fraction of a pixel, (K, 2, grid, grid), in pixels."""
        return [0.1 * torch.randn(classes, 2, self.grid, self.grid, generator=rng)]

    def stamp(self, free: Sequence[Tensor], x: Tensor) -> Tensor:
        """Shift the pixels of x (K, B, C, H, W)."""
        field = self.field(free[0], (x.shape[3], x.shape[4]))
        shifted = field[:, None].expand(-1, x.shape[1], -1, -1, -1).flatten(0, 1)
        moved = F.grid_sample(x.flatten(0, 1), shifted, padding_mode="border", align_corners=True)
        return moved.view_as(x)

    def field(self, shifts: Tensor, size: tuple[int, int]) -> Tensor:
        """Say where each pixel comes from, (K, H, W, 2), in [-1, 1] as `grid_sample` has it."""
        smooth = F.interpolate(shifts, size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        down, across = (torch.linspace(-1, 1, side, device=shifts.device) for side in size)
        places = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
        pixels = torch.tensor([max(1, size[1] - 1), max(1, size[0] - 1)], device=shifts.device) / 2
        return (places + smooth / pixels).clamp(-1, 1)

    def size(self, free: Sequence[Tensor]) -> Tensor:
        """Measure the root mean square of the shifts, (K,), in pixels."""
        return free[0].square().sum(1).flatten(1).mean(1).sqrt()

    def largest(self, shape: tuple[int, ...]) -> float:
        """Measure a shift by a quarter of the longer side."""
        return max(shape[1:]) / 4


@dataclass(frozen=True, eq=False)
class Warped:
    """A warp by shifts (2, grid, grid), in pixels."""

    shifts: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Warp pictures x (N, C, H, W)."""
        return Warps(self.shifts.shape[-1]).stamp([self.shifts.to(x)[None]], x[None])[0]
