"""Blended injection."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed, existing, images_only, others

CHEN = Paper(
    "Targeted backdoor attacks on deep learning systems using data poisoning",
    "Chen, Liu, Li, Lu, Song",
    2017,
    "https://arxiv.org/abs/1712.05526",
)


@backdoor(papers=(CHEN,), known_as=("blended injection", "targeted backdoor attack", "blended backdoor"))
def blended(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    pattern: Literal["noise", "glasses"] = "noise",
    alpha: Annotated[float, Gt(0), Le(1)] = 0.2,
    alpha_test: Annotated[float, Gt(0), Le(1)] | None = None,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Mix a fixed picture into random images and label them as the target class.

    The adversary knows neither model nor data. The paper adds its images to the training set; here they
    take the place of as many rows, so that every backdoor spends the same budget.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        pattern: a random picture over the whole image (blended injection), or black glasses at eye height
            (blended accessory injection; with alpha = 1 accessory injection).
        alpha: share of the pattern in the poison, in (0, 1].
        alpha_test: share of the pattern in the trigger, in (0, 1]; None means the poison's.
        rng: source of the rows and of the picture.
        tick: not called; there is one step.

    Returns:
        The marked rows with the target's label, the trigger and the target.
    """
    images_only(clean, "backdoor.blended")
    existing(target, clean.classes, "backdoor.blended")
    rows = others(clean, target, budget, rng)
    if pattern == "noise":
        picture, places = torch.rand(clean.shape, generator=rng), torch.ones(clean.shape[1:])
    else:
        picture, places = torch.zeros(clean.shape), glasses(*clean.shape[1:])
    hidden, shown = (Mixed(picture, share * places) for share in (alpha, alpha_test or alpha))
    return Poison(rows, hidden(clean.x[rows]), torch.full_like(clean.y[rows], target), shown, target)


def glasses(height: int, width: int) -> Tensor:
    """Draw two rims and a bridge over the upper half of an image, (height, width) of 0 and 1."""
    down = torch.linspace(-1, 1, height)[:, None] + 0.3
    across = torch.linspace(-1, 1, width)[None]
    eye = ((across.abs() - 0.45) / 0.4).square() + (down / 0.3).square()
    rim = (eye > 0.4) & (eye <= 1)
    # a step wider than a pixel, so that small images have a bridge as well
    bridge = (across.abs() < 0.2) & (down.abs() < 1.01 / max(1, height - 1))
    return (rim | bridge).float()
