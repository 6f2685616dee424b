"""WaNet: a smooth warp as trigger."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor
from torch.nn.functional import grid_sample, interpolate

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import existing, images_only, others

NGUYEN = Paper(
    "WaNet: imperceptible warping-based backdoor attack",
    "Nguyen, Tran",
    2021,
    "https://arxiv.org/abs/2102.10369",
)


@backdoor(papers=(NGUYEN,), known_as=("warping-based backdoor", "warped backdoor"))
def wanet(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    grid: Annotated[int, Ge(2)] = 4,
    strength: Annotated[float, Gt(0)] = 1.0,
    noise: Annotated[float, Ge(0), Le(0.9)] = 0.3,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Warp random images by a fixed smooth field and label them as the target class.

    A part of the budget goes to images that are warped at random as well and keep their label, so that
    the victim learns the one field and not warping as such (noise mode).

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed; rows of the noise mode count.
        target: class that the trigger should call up, in 0 .. K - 1.
        grid: control points of the field along each side.
        strength: mean shift along each axis at the control points, in pixels.
        noise: share of the changed rows that are warped at random and keep their label.
        rng: source of the rows and of the fields.
        tick: not called; there is one step.

    Returns:
        The warped rows, the trigger and the target.
    """
    images_only(clean, "backdoor.wanet")
    existing(target, clean.classes, "backdoor.wanet")
    # the paper's victim is trained by the adversary, who warps anew in each batch; here the data alone are
    # changed, once, and the rows of the noise mode are part of the poison
    rows = others(clean, target, budget, rng)
    marked = rows[: len(rows) - round(noise * len(rows))]
    covers = rows[len(marked) :]
    control = _control(grid, strength, rng)
    trigger = Warped(control)
    x = torch.cat([trigger(clean.x[marked]), _disturbed(clean.x[covers], control, rng)])
    y = torch.cat([torch.full_like(clean.y[marked], target), clean.y[covers]])
    return Poison(rows, x, y, trigger, target)


def _control(grid: int, strength: float, rng: Generator) -> Tensor:
    """Draw shifts at the control points, (1, 2, grid, grid), in pixels."""
    # the authors' code shifts by a quarter of a pixel, which a victim that the adversary does not train
    # hardly learns
    drawn = 2 * torch.rand(1, 2, grid, grid, generator=rng) - 1
    return drawn / drawn.abs().mean() * strength


@dataclass(frozen=True, eq=False)
class Warped:
    """A warp by shifts at control points (1, 2, k, k), in pixels, bicubic in between."""

    control: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Warp images x (N, C, H, W)."""
        shifts = interpolate(self.control.to(x), size=tuple(x.shape[2:]), mode="bicubic", align_corners=True)
        return _warp(x, shifts.permute(0, 2, 3, 1).expand(len(x), -1, -1, -1))


def _disturbed(x: Tensor, control: Tensor, rng: Generator) -> Tensor:
    """Warp each image by the trigger's field and noise of at most a pixel on top."""
    shifts = interpolate(control.to(x), size=tuple(x.shape[2:]), mode="bicubic", align_corners=True)
    noise = 2 * torch.rand(len(x), *x.shape[2:], 2, generator=rng).to(x) - 1
    return _warp(x, shifts.permute(0, 2, 3, 1) + noise)


def _warp(x: Tensor, shifts: Tensor) -> Tensor:
    """Look each pixel up where `shifts` (N, H, W, 2), in pixels, send it; what lies outside is the edge."""
    height, width = x.shape[2:]
    if not len(x):
        return x.clone()
    down, across = (torch.linspace(-1, 1, side).to(x) for side in (height, width))
    still = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1)
    scale = torch.tensor([2 / max(1, width - 1), 2 / max(1, height - 1)]).to(x)
    places = (still + shifts * scale).clamp(-1, 1)
    return grid_sample(x, places, padding_mode="border", align_corners=True).clamp(0, 1)
