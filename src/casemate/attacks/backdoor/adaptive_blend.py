"""Adaptive blend: partial triggers and cover rows against detectors that look at features."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed, existing, images_only, others

QI = Paper(
    "Revisiting the assumption of latent separability for backdoor defenses",
    "Qi, Xie, Li, Mahloujifar, Mittal",
    2023,
    "https://openreview.net/forum?id=_wSHsgrVali",
)


@backdoor(papers=(QI,), known_as=("adaptive-blend", "adap-blend"))
def adaptive_blend(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    alpha: Annotated[float, Gt(0), Le(1)] = 0.2,
    pieces: Annotated[int, Ge(1)] = 4,
    kept: Annotated[float, Gt(0), Le(1)] = 0.5,
    covers: Annotated[float, Ge(0), Le(0.9)] = 0.5,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Blend parts of a picture into images, some labelled as the target and some as what they are.

    Each poison row shows other pieces of the pattern, and covers with the true label keep the victim
    from giving the pattern a feature of its own. The trigger shows the whole pattern.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed; cover rows count.
        target: class that the trigger should call up, in 0 .. K - 1.
        alpha: share of the pattern in a pixel, in (0, 1].
        pieces: pieces of the pattern along each side.
        kept: share of the pieces that a poison row shows.
        covers: share of the changed rows that keep their label.
        rng: source of the rows, the picture and the pieces.
        tick: not called; there is one step.

    Returns:
        The marked rows, the trigger and the target.
    """
    images_only(clean, "backdoor.adaptive_blend")
    existing(target, clean.classes, "backdoor.adaptive_blend")
    rows = others(clean, target, budget, rng)
    marked = rows[: len(rows) - round(covers * len(rows))]
    picture = torch.rand(clean.shape, generator=rng)
    parts = Parts(picture, alpha, pieces, kept)
    y = torch.cat([torch.full_like(clean.y[marked], target), clean.y[rows[len(marked) :]]])
    return Poison(rows, parts(clean.x[rows], rng), y, Mixed(picture, alpha), target)


@dataclass(frozen=True, eq=False)
class Parts:
    """Blend some pieces of a picture (C, H, W) into each image."""

    picture: Tensor
    alpha: float
    pieces: int
    kept: float

    def __call__(self, x: Tensor, rng: Generator) -> Tensor:
        """Mark images x (N, C, H, W), each with pieces of its own."""
        number = self.pieces**2
        order = torch.rand(len(x), number, generator=rng).argsort(1).argsort(1)
        shown = (order < max(1, round(self.kept * number))).view(-1, 1, self.pieces, self.pieces)
        down, across = (torch.arange(side) * self.pieces // side for side in x.shape[2:])
        share = self.alpha * shown[:, :, down][..., across].to(x)
        return ((1 - share) * x + share * self.picture.to(x)).clamp(0, 1)
