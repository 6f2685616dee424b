"""What an adversary may do who pastes one patch into every picture, and the patch itself."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor
from torch.nn import functional as F

from casemate.core.errors import NotApplicable

DRAWS = 4  # numbers that decide where one patch goes: down, across, turn and size


class Pasting(BaseModel):
    """Paste the same square into every picture, at a place that the adversary cannot choose.

    The square covers at most `area`, a share of the picture in (0, 1], and anything may be in it. It
    lies anywhere inside the picture, turned by up to `rotation` degrees to either side, and is shrunk
    to as little as `smallest` of its side; the harness draws all of this for each picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    area: Annotated[float, Gt(0), Le(1)]
    rotation: Annotated[float, Ge(0), Le(180)] = 22.5
    smallest: Annotated[float, Gt(0), Le(1)] = 0.8

    def pixels(self, height: int, width: int) -> int:
        """Most pixels of a picture that may be covered."""
        # a share such as 0.29 of 100 pixels must not lose one to rounding
        return math.floor(self.area * height * width + 1e-9)

    def side(self, height: int, width: int) -> int:
        """Values on a side of the pattern, (side, side): as fine as the picture can show it."""
        return max(1, math.ceil(math.sqrt(self.pixels(height, width))))

    def draw(self, n: int, rng: Generator) -> Tensor:
        """Draw places for n pictures, (n, 4) in [0, 1)."""
        return torch.rand(n, DRAWS, generator=rng)

    def __str__(self) -> str:
        """Write the budget as people read it."""
        return f"one square patch on at most {100 * self.area:g}% of the picture, at any place"


@dataclass(frozen=True)
class Patch:
    """A square pattern (C, S, S) in [0, 1] and how it is pasted.

    Called with pictures (N, C, H, W) it is pasted upright and in full size into their middle; `paste`
    does so at given places. The pattern may carry a graph, through which gradients flow.
    """

    pattern: Tensor
    budget: Pasting

    def __call__(self, x: Tensor) -> Tensor:
        """Paste the patch into the middle of each picture, (N, C, H, W)."""
        return self.paste(x, torch.tensor([0.5, 0.5, 0.5, 1.0]).expand(len(x), DRAWS))

    def paste(self, x: Tensor, places: Tensor) -> Tensor:
        """Paste the patch into pictures x (N, C, H, W).

        Args:
            x: the pictures; those smaller than one pixel of patch stay as they are.
            places: (N, 4) in [0, 1], uniform for a random place: down, across, turn, size.

        Returns:
            The pictures with exactly the covered pixels changed.
        """
        if x.dim() != 4 or not len(x):
            return x.clone()
        u, v, covered = _frame(x, places, self.budget)
        grid = torch.stack([u, v], -1)  # (N, H, W, 2)
        # beyond the pattern's outermost values its edge goes on
        shown = F.grid_sample(
            self.pattern.to(x)[None].expand(len(x), *self.pattern.shape), grid, padding_mode="border",
            align_corners=False,
        )  # fmt: skip
        # a weighted mean of ones may round to more than one
        return torch.where(covered[:, None], shown.clamp(0, 1), x)


def _frame(x: Tensor, places: Tensor, budget: Pasting) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of each pixel in the frame of the patch, -1 .. 1 inside it, and what is covered.

    All three (N, H, W). The pixels nearest to the patch's middle are covered, in the frame's maximum
    norm and as many as its size allows, so that rounding never costs the adversary more than the budget.
    """
    height, width = x.shape[2:]
    down, across, turn, size = places.to(x).unbind(1)
    angle = (2 * turn - 1) * math.radians(budget.rotation)
    pixels = budget.pixels(height, width) * (budget.smallest + (1 - budget.smallest) * size).square()
    side = pixels.sqrt()
    # the turned square must lie inside the picture
    half = side / 2 * (angle.cos().abs() + angle.sin().abs())
    top = half + down * (height - 2 * half).clamp(min=0)
    left = half + across * (width - 2 * half).clamp(min=0)
    y = torch.arange(height, dtype=x.dtype, device=x.device) + 0.5 - top[:, None]
    z = torch.arange(width, dtype=x.dtype, device=x.device) + 0.5 - left[:, None]
    cos, sin = (
        f(angle)[:, None, None] / (side[:, None, None] / 2).clamp(min=0.5) for f in (torch.cos, torch.sin)
    )
    u = cos * z[:, None, :] + sin * y[:, :, None]
    v = cos * y[:, :, None] - sin * z[:, None, :]
    rank = torch.maximum(u.abs(), v.abs()).flatten(1).argsort(stable=True, dim=1).argsort(1)
    covered = rank < (pixels + 1e-4).floor()[:, None]
    return u, v, covered.view(len(x), height, width)


def upright(budget: Pasting, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Give a grey pattern (C, S, S) for pictures of a shape, where the search for one begins.

    Raises NotApplicable where there is no picture, or none with room for one pixel.
    """
    if len(shape) != 3 or budget.pixels(*shape[1:]) < 1:
        raise NotApplicable(f"a patch needs pictures with room for it. Got inputs of shape {shape}")
    side = budget.side(*shape[1:])
    return torch.full((shape[0], side, side), 0.5, dtype=like.dtype, device=like.device)
