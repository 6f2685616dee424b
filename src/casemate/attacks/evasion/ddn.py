"""Decoupling direction and norm."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Clearly, Goal, Loss, Lp, within
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import inward, nonzero, per_row, size, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

RONY = Paper(
    "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses",
    "Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger",
    2019,
    "https://arxiv.org/abs/1811.09600",
)


@evasion(
    norms=("l2",),
    papers=(RONY,),
    known_as=("decoupled direction and norm", "DDN"),
    minimum_norm=True,
    cost=lambda params, classes: Cost(queries=params.steps, gradients=params.steps),
)
def ddn(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    start: Annotated[float, Gt(0)] = 1.0,
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.05,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Step along the gradient, then set the radius apart: smaller after success, larger after failure.

    With a finite radius the search stays in the ball, and a row leaves as soon as the ball holds an
    example of it.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: number of gradient steps.
        start: first radius, in units of `x`.
        gamma: first share by which the radius changes in a step, in (0, 1); it falls to a
            tenth on rows whose radius has met the boundary from both sides.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: not used; the method is deterministic.
        tick: called after each step with the number of rows without an example.

    Returns:
        Nearest examples met (N, *S), in the ball and in [0, 1]; `x` where none was.
    """
    result, x, goal = x.detach().clone(), x.detach(), Clearly(goal)
    origin, x_adv, radius = x, x, x.new_full((len(x),), start)
    nearest = torch.full_like(radius, float("inf"))
    settled = torch.zeros_like(radius, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        logits, _, grad = oracle.gradient(x_adv, goal, loss)
        reached = oracle.reached(goal, x_adv, logits)
        distance = size(x_adv - x, "l2")
        better = reached & (distance < nearest)
        result[rows[better]] = x_adv[better]
        nearest = torch.where(better, distance, nearest)
        settled = settled | (nearest.isfinite() & ~reached)
        rows, x, x_adv, radius, nearest, settled, reached, grad, oracle, goal = keep(
            nearest > budget.enough, rows, x, x_adv, radius, nearest, settled, reached, grad, oracle, goal
        )
        if not len(rows):
            break
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        # what points out of the box is left out of the direction; the paper's step would waste it
        delta = x_adv - x + (0.01 + 0.99 * cosine) * steepest(inward(grad, x_adv), "l2")
        # the paper's gamma is constant, so that to the end the radius swings by it around the boundary
        share = gamma * torch.where(settled, 0.1 + 0.9 * cosine, 1)
        radius = (radius * torch.where(reached, 1 - share, 1 + share)).clamp(max=budget.eps)
        x_adv = (x + delta * per_row(radius / nonzero(size(delta, "l2")), x)).clamp(0, 1)
        tick(step + 1, steps, {"standing": int(nearest.isinf().sum())})
    return within(result, origin, budget)
