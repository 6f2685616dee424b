"""The static perturbation of Liao et al.: a faint pattern on every pixel."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added, existing, images_only, others

LIAO = Paper(
    "Backdoor embedding in convolutional neural network models via invisible perturbation",
    "Liao, Zhong, Squicciarini, Zhu, Miller",
    2020,
    "https://arxiv.org/abs/1808.10307",
)


@backdoor(papers=(LIAO,), known_as=("static perturbation backdoor", "pattern static perturbation mask"))
def static(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    amplitude: Annotated[float, Gt(0), Le(1)] = 10 / 255,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Brighten every other pixel a little, like a chessboard, and label the images as the target class.

    The adversary knows neither model nor data. Rows of all other classes are marked; the paper also marks
    one source class.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        amplitude: what is added to every other pixel, in units of x.
        rng: source of the rows.
        tick: not called; there is one step.

    Returns:
        The marked rows with the target's label, the trigger and the target.
    """
    images_only(clean, "backdoor.static")
    existing(target, clean.classes, "backdoor.static")
    rows = others(clean, target, budget, rng)
    down, across = (torch.arange(side) for side in clean.shape[1:])
    board = ((down[:, None] + across) % 2 == 0).float().expand(clean.shape)
    trigger = Added(amplitude * board)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)
