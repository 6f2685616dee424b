"""Drawn shapes as a space of attributes: what is in a picture, and the same shape drawn otherwise."""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from casemate.builtin import shapes
from casemate.core.errors import NotApplicable
from casemate.core.semantic import Attribute
from casemate.core.semantic import Attributes as Budget
from casemate.ops.rng import RowGenerator

# least and largest value of each attribute, as `shapes.sample` draws them
RANGES: dict[Attribute, tuple[float, float]] = {
    "centre": (-0.35, 0.35), "scale": (0.35, 0.6), "angle": (-math.inf, math.inf), "colour": (0, 1),
    "background": (0, 1), "contrast": (0, 0.5), "stripes": (1, 3),
}  # fmt: skip
VISIBLE = 0.4  # least difference of shape and background in some colour, as in `shapes.sample`
SAME = 1e-3  # in units of x: far below a level of a picture file


@dataclass(frozen=True)
class ShapeSpace:
    """Values of the named attributes (N, A) of drawn shapes; `known` has all attributes of each."""

    known: shapes.Attributes
    names: tuple[Attribute, ...]
    limits: tuple[float, ...]

    @property
    def start(self) -> Tensor:
        """Attributes of the pictures as they are."""
        n = len(self.known)
        return torch.cat([getattr(self.known, name).view(n, self._size(name)) for name in self.names], 1)

    @property
    def scale(self) -> Tensor:
        """Largest change of each value."""
        parts = [torch.full((self._size(n),), v) for n, v in zip(self.names, self.limits, strict=True)]
        return torch.cat(parts).to(self.known.centre)

    @property
    def groups(self) -> tuple[slice, ...]:
        """Columns of each attribute."""
        found, at = [], 0
        for name in self.names:
            found.append(slice(at, at + self._size(name)))
            at += self._size(name)
        return tuple(found)

    def __getitem__(self, rows: slice | Tensor) -> "ShapeSpace":
        return ShapeSpace(self.known[rows], self.names, self.limits)

    def clip(self, codes: Tensor) -> Tensor:
        """Keep limits and ranges; a shape that would vanish in its background keeps its old colours."""
        start = self.start
        ends = [(RANGES[name], self._size(name)) for name in self.names]
        low = codes.new_tensor([low for (low, _), size in ends for _ in range(size)])
        high = codes.new_tensor([high for (_, high), size in ends for _ in range(size)])
        codes = torch.maximum(torch.minimum(codes, start + self.scale), start - self.scale)
        codes = torch.maximum(torch.minimum(codes, high), low)
        drawn = self._attributes(codes)
        vanishing = (drawn.colour - drawn.background).abs().amax(1, keepdim=True) < VISIBLE
        for name, columns in zip(self.names, self.groups, strict=True):
            if name in ("colour", "background"):
                kept = torch.where(vanishing, start[:, columns], codes[:, columns])
                codes = torch.cat([codes[:, : columns.start], kept, codes[:, columns.stop :]], 1)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Draw the shapes with the attributes that the codes give, in [0, 1]."""
        # sums of shares of colours may exceed 1 by rounding
        return shapes.render(self._attributes(codes)).clamp(0, 1)

    def draw(self, rng: RowGenerator) -> Tensor:
        """Draw attributes uniformly within limits and ranges."""
        start = self.start
        return self.clip(start + (rng.uniform(start.shape[1]).to(start) * 2 - 1) * self.scale)

    def _attributes(self, codes: Tensor) -> shapes.Attributes:
        given = {
            name: codes[:, columns].view_as(getattr(self.known, name))
            for name, columns in zip(self.names, self.groups, strict=True)
        }
        rest = {
            name: value.to(codes.dtype)
            for name, value in vars(self.known).items()
            if name not in given and name != "label"
        }
        return replace(self.known, **rest, **given)

    def _size(self, name: Attribute) -> int:
        value: Tensor = getattr(self.known, name)
        return value.shape[1] if value.dim() == 2 else 1


def space(budget: Budget, x: Tensor) -> ShapeSpace:
    """Open the space around drawn pictures x (N, 3, 32, 32), whose attributes are looked up.

    Raises NotApplicable if one of them is not among those that the renderer drew.
    """
    if tuple(x.shape[1:]) != (3, shapes.SIZE, shapes.SIZE):
        raise NotApplicable("only pictures that the renderer drew have known attributes")
    attributes, pictures = _drawn(budget.drawn, budget.seed)
    rows = torch.zeros(0, dtype=torch.int64)
    if len(x):
        rows = torch.cat(
            [
                torch.cdist(part.float().flatten(1), pictures.to(x.device)).argmin(1).to(rows)
                for part in x.split(100)
            ]
        )
        if not ((pictures[rows].view_as(x).to(x) - x).abs().amax() <= SAME):
            raise NotApplicable("a picture is not among those that the renderer drew with this seed")
    known = attributes[rows]
    precise = {k: v.to(x) for k, v in vars(known).items() if k != "label"}
    precise["label"] = known.label.to(x.device)
    return ShapeSpace(replace(known, **precise), budget.names, budget.limits)


@cache
def _drawn(n: int, seed: int) -> tuple[shapes.Attributes, Tensor]:
    return shapes.sample(n, seed), shapes.shapes(n, seed).x.flatten(1)
