"""Coloured shapes with known attributes, and a renderer that is differentiable in all of them.

A shape is the set where its signed distance (in half image widths, y upwards) is negative; the
edge is a sigmoid of that distance, so gradients flow to position, scale and angle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.core.data import Samples
from casemate.ops.rng import generator

NAMES = ("disc", "square", "triangle", "cross", "ring", "star")
SIZE = 32  # pixels
SOFTNESS = 0.5 / SIZE  # width of an edge, in half image widths: a quarter of a pixel


@dataclass(frozen=True)
class Attributes:
    """What is in N images: `label` (N,) int64, one of `NAMES`, and free attributes, all float32.

    `centre` (N, 2) and `scale` (N,), the shape's radius, are in half image widths, `angle` (N,) in
    radians, `colour` and `background` (N, 3) in [0, 1]. Stripes in the shape's own frame darken it
    by a share `contrast` (N,) in [0, 1], `stripes` (N,) times per radius.
    """

    label: Tensor
    centre: Tensor
    scale: Tensor
    angle: Tensor
    colour: Tensor
    background: Tensor
    contrast: Tensor
    stripes: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | Tensor) -> "Attributes":
        return Attributes(**{name: value[rows] for name, value in vars(self).items()})


def sample(n: int, seed: int) -> Attributes:
    """Draw the attributes of n images; labels are balanced and in random order."""
    rng = generator(seed, "shapes")

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=rng)

    colour, background = uniform(0, 1, 3), uniform(0, 1, 3)
    # a shape of its background's colour would have no label to see
    alike = (colour - background).abs().amax(1, keepdim=True) < 0.4
    return Attributes(
        label=torch.randperm(n, generator=rng) % len(NAMES),
        centre=uniform(-0.35, 0.35, 2),
        scale=uniform(0.35, 0.6),
        angle=uniform(0, 2 * math.pi),
        colour=colour,
        background=torch.where(alike, (colour + 0.5) % 1, background),
        contrast=uniform(0, 0.5),
        stripes=uniform(1, 3),
    )


def render(attributes: Attributes) -> Tensor:
    """Draw images (N, 3, 32, 32) in [0, 1], differentiably in every attribute but the label."""
    a = attributes
    ticks = (torch.arange(SIZE, dtype=a.centre.dtype, device=a.centre.device) + 0.5) / SIZE * 2 - 1
    ahead = ticks[None, None, :] - a.centre[:, 0, None, None]  # (N, 1, 32)
    up = -ticks[None, :, None] - a.centre[:, 1, None, None]  # (N, 32, 1)
    cos, sin, scale = (v[:, None, None] for v in (a.angle.cos(), a.angle.sin(), a.scale))
    u, v = (cos * ahead + sin * up) / scale, (cos * up - sin * ahead) / scale
    distance = torch.zeros_like(u)
    for label, shape in enumerate(SHAPES):
        rows = (a.label == label).nonzero().flatten()
        distance = distance.index_copy(0, rows, shape(u[rows], v[rows]))
    inside = torch.sigmoid(-distance * scale / SOFTNESS)[:, None]
    wave = (1 + torch.sin(2 * math.pi * a.stripes[:, None, None] * u)) / 2
    paint = a.colour[:, :, None, None] * (1 - a.contrast[:, None, None] * wave)[:, None]
    return a.background[:, :, None, None] * (1 - inside) + paint * inside


def shapes(n: int, seed: int) -> Samples:
    """Draw n labelled images (3x32x32)."""
    attributes = sample(n, seed)
    x = torch.cat(
        [render(attributes[slice(i, i + 500)]) for i in range(0, n, 500)] or [torch.zeros(0, 3, SIZE, SIZE)]
    )
    return Samples(x, attributes.label, len(NAMES), NAMES)


def _length(u: Tensor, v: Tensor) -> Tensor:
    # far below a pixel, and keeps the gradient finite where the centre is on one
    return (u * u + v * v + 1e-12).sqrt()


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return _length(u, v) - 1


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return (_length(u, v) - 0.8).abs() - 0.2


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - math.sqrt(0.5)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    return torch.maximum(long - 1, short - 0.3)


def _sides(u: Tensor, v: Tensor, n: int, apothem: float) -> Tensor:
    """Signed distances from the n lines of a regular polygon whose first corner is up, (n, N, H, W)."""
    angles = [math.pi / 2 + math.pi / n * (2 * k + 1) for k in range(n)]
    return torch.stack([math.cos(t) * u + math.sin(t) * v - apothem for t in angles])


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return _sides(u, v, 3, 0.5).amax(0)


def _star(u: Tensor, v: Tensor) -> Tensor:
    # the inner pentagon is inside all five lines, the points are inside all but one
    distance: Tensor = _sides(u, v, 5, math.cos(2 * math.pi / 5)).topk(2, 0).values[1]
    return distance


SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (_disc, _square, _triangle, _cross, _ring, _star)
