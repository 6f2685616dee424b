"""Adversarial patch."""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor
from torch.nn import functional as F

from casemate.core.pasting import Pasting, Patch, upright
from casemate.core.registry import Paper, universal
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss
from casemate.core.tick import Tick, ignore

BROWN = Paper(
    "Adversarial patch", "Brown, Mané, Roy, Abadi, Gilmer", 2017, "https://arxiv.org/abs/1712.09665"
)


@universal(papers=(BROWN,), known_as=("adversarial patch", "adversarial sticker, digital"))
def patch(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Pasting,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 300,
    batch: Annotated[int, Ge(1)] = 100,
    lr: Annotated[float, Gt(0)] = 0.05,
    loss: Loss = "ce",
    rng: Generator,
    tick: Tick = ignore,
) -> Callable[[Tensor], Tensor]:
    """Learn a square picture that misleads wherever it is pasted, turned and shrunk.

    The expectation over places, angles and sizes (EOT) is climbed with a new random one for each input
    and step. Minimises log(1 + exp(-loss)), with `ce` the negated log-probability of the goal.

    Args:
        oracle: white-box access to the target.
        x: pictures (N, C, H, W) to learn from, each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: size of the patch and the ways in which it may come to lie.
        steps: number of gradient steps.
        batch: pictures of a step.
        lr: learning rate of Adam in units of `x`, which falls linearly to zero.
        loss: surrogate of success.
        rng: source of the pictures and places of each step.
        tick: called after each step with the loss.

    Returns:
        The patch, which the harness pastes where it likes.

    Raises:
        NotApplicable: the inputs are not pictures, or the patch is smaller than a pixel.
    """
    pattern = upright(budget, tuple(x.shape[1:]), x).requires_grad_()
    optimizer = torch.optim.Adam([pattern], lr=lr)
    for step in range(steps if len(x) else 0):
        rows = torch.randint(len(x), (min(batch, len(x)),), generator=rng)
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        with torch.enable_grad():
            pasted = Patch(pattern, budget).paste(x[rows], budget.draw(len(rows), rng))
            values = goal[rows.to(x.device)].loss(oracle[rows].graph(pasted), loss)
            (pattern.grad,) = torch.autograd.grad(F.softplus(-values).mean(), pattern)
        optimizer.step()
        with torch.no_grad():
            pattern.clamp_(0, 1)
        tick(step + 1, steps, {"loss": values.detach().mean().item()})
    return Patch(pattern.detach(), budget)
