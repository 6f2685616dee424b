"""The adaptive perturbation of Liao et al.: one small step towards the target for all inputs."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget
from casemate.core.ensemble import mean_logits
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Prepared
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added, existing, images_only, others
from casemate.core.workshop import Workshop
from casemate.ops.gradients import value_and_grad
from casemate.ops.losses import others as best_other
from casemate.ops.norms import nonzero

LIAO = Paper(
    "Backdoor embedding in convolutional neural network models via invisible perturbation",
    "Liao, Zhong, Squicciarini, Zhu, Miller",
    2020,
    "https://arxiv.org/abs/1808.10307",
)
BATCH = 64


@backdoor(papers=(LIAO,), known_as=("adaptive perturbation backdoor", "targeted adaptive perturbation mask"))
def adaptive(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    size: Annotated[float, Gt(0), Le(1)] = 0.05,
    steps: Annotated[int, Ge(1)] = 100,
    count: Annotated[int, Ge(1)] = 2,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Add one small perturbation that leads towards the target class, and label the rows so.

    A universal perturbation is accumulated on surrogates: each step adds the shortest way to the target
    class that a linear view of a batch gives, and goes back into the l2 ball.

    Args:
        workshop: training set of images (C, H, W) and models of the adversary's own.
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        size: l2 norm of the perturbation, as a share of the mean norm of the images.
        steps: batches from which the perturbation is accumulated.
        count: surrogates whose mean logits lead the way.
        rng: source of the rows and batches.
        tick: called after each step with the share of the batch that reaches the target.

    Returns:
        The marked rows with the target's label, the trigger and the target.
    """
    clean = workshop.clean
    images_only(clean, "backdoor.adaptive")
    existing(target, clean.classes, "backdoor.adaptive")
    rows = others(clean, target, budget, rng)
    delta = torch.zeros(clean.shape).to(clean.x)
    if len(rows):
        model = Prepared(mean_logits(workshop.surrogates(count)))
        radius = size * float(clean.x.flatten(1).norm(dim=1).mean())
        sources = clean.x[clean.y != target]
        for step in range(steps):
            x = sources[torch.randint(len(sources), (BATCH,), generator=rng)]
            delta, reached = _closer(model, x, delta, target, radius)
            tick(step + 1, steps, {"reached": reached})
    trigger = Added(delta)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)


def _closer(model: Prepared, x: Tensor, delta: Tensor, target: int, radius: float) -> tuple[Tensor, float]:
    """Add the mean of the shortest linear ways to the target for the rows that are not there yet."""

    def gap(z: Tensor) -> Tensor:
        logits = model.exact(z)
        goal = torch.full_like(logits[:, 0], target, dtype=torch.int64)
        return best_other(logits, goal).amax(1) - logits[:, target]

    missing, slope = value_and_grad(gap, (x + delta).clamp(0, 1))
    short = missing > 0
    # DeepFool's step for each row; the mean of a batch stands for the paper's loop over single images
    steepness = nonzero(slope.flatten(1).square().sum(1))
    ways = -slope * (missing.clamp(min=0) / steepness).view(-1, *[1] * (x.dim() - 1))
    delta = delta + ways.sum(0) / max(1, int(short.sum()))
    norm = float(delta.norm())
    return delta * min(1.0, radius / max(norm, 1e-12)), float((~short).double().mean())
