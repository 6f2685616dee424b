"""Universal adversarial perturbation by gradient steps."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor

from casemate.core.registry import Paper, universal
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import project, shrink, steepest
from casemate.ops.rng import batches

SHAFAHI = Paper(
    "Universal adversarial training",
    "Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein",
    2020,
    "https://arxiv.org/abs/1811.11304",
)
MOOSAVI = Paper(
    "Universal adversarial perturbations",
    "Moosavi-Dezfooli, Fawzi, Fawzi, Frossard",
    2017,
    "https://arxiv.org/abs/1610.08401",
)


@universal(
    norms=("linf", "l2"),
    papers=(SHAFAHI, MOOSAVI),
    known_as=("UAP", "universal adversarial perturbation", "SGD-UAP", "stochastic gradient UAP"),
)
def uap(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    batch: Annotated[int, Ge(1)] = 125,
    step_size: Annotated[float, Gt(0)] | None = None,
    loss: Loss = "ce",
    clip: Annotated[float, Gt(0)] = 1.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Callable[[Tensor], Tensor]:
    """Learn one perturbation for all inputs by steps along the mean gradient of random batches.

    A row whose loss is above `clip` pulls no longer, so that those already fooled do not outvote the
    others.

    Args:
        oracle: white-box access to the target.
        x: inputs (N, *S) to learn from, each value in [0, 1]; some hundreds suffice.
        goal: what the adversary wants of each row.
        budget: ball around every input that the result stays in.
        steps: number of gradient steps.
        batch: rows of one step.
        step_size: length of the first step in the budget's norm, in units of `x`; later ones fall
            linearly to zero. None means eps / 5.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        clip: loss above which a row no longer counts, as a multiple of the mean gap between the two
            largest logits, so that the scale of the logits does not matter.
        rng: source of the batches.
        tick: called after each step with the mean loss.

    Returns:
        The map that adds the perturbation to inputs and keeps them in ball and box.
    """
    alpha = budget.radius / 5 if step_size is None else step_size
    v = x.new_zeros(1, *x.shape[1:])
    limit = torch.inf
    for step, rows in enumerate(batches(len(x), batch, steps, rng)):
        part, wish = x[rows], goal[rows.to(x.device)]
        z = v.detach().requires_grad_()
        with torch.enable_grad():
            logits = oracle[rows].graph((part + z).clamp(0, 1))
            if step == 0:
                # the first batch is clean; the paper's clip is a number of nats
                limit = clip * _gap(logits.detach())
            values = wish.loss(logits, loss)
            # the paper clips cross-entropy, whose gradient is already gone on confident rows
            (grad,) = torch.autograd.grad(values.clamp(max=limit).sum(), z)
        # the paper's steps are of constant size; falling ones end nearer to the optimum
        move = steepest(grad, budget.norm) * (alpha * (1 - step / steps))
        v = shrink(v + move, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": values.detach().mean().item()})
    return partial(_add, v.detach(), budget)


def _gap(logits: Tensor) -> float:
    top = logits.topk(2, 1).values
    return float((top[:, 0] - top[:, 1]).mean())


def _add(v: Tensor, budget: Lp, x: Tensor) -> Tensor:
    return project(x + v.to(x), x, budget.norm, budget.radius)
