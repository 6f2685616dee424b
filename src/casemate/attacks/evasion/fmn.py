"""Fast minimum-norm attack."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Clearly, Goal, Loss, Lp, within
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import dual_size, inward, nonzero, project, size, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

PINTOR = Paper(
    "Fast minimum-norm adversarial attacks through adaptive norm constraints",
    "Pintor, Roli, Brendel, Biggio",
    2021,
    "https://arxiv.org/abs/2102.12827",
)
BEYOND = 1.001  # of the way to the estimated boundary


@evasion(
    norms=("linf", "l2", "l1", "l0"),
    papers=(PINTOR,),
    known_as=("fast minimum-norm attack", "FMN"),
    minimum_norm=True,
    cost=lambda params, classes: Cost(queries=params.steps, gradients=params.steps),
)
def fmn(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    step_size: Annotated[float, Gt(0)] | None = None,
    gamma: Annotated[float, Gt(0), Lt(1)] = 0.05,
    loss: Loss = "margin",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Project onto a ball whose radius follows the boundary: estimated first, then shrunk and grown.

    With a finite radius the search stays in the ball, and a row leaves as soon as the ball holds an
    example of it.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: number of gradient steps.
        step_size: first length of a step, in l2 units of `x`; it falls to a hundredth. None means 2,
            in linf 10.
        gamma: first share by which the radius changes in a step, in (0, 1); it falls to a fiftieth.
        loss: surrogate to climb; the first radius is its value over the size of its gradient, which
            is exact for the margin of a linear model.
        rng: not used; the method is deterministic.
        tick: called after each step with the number of rows without an example.

    Returns:
        Nearest examples met (N, *S), in the ball and in [0, 1]; `x` where none was.
    """
    norm = budget.norm
    first = (10.0 if norm == "linf" else 2.0) if step_size is None else step_size
    result, x, goal = x.detach().clone(), x.detach(), Clearly(goal)
    origin, x_adv = x, x
    radius = x.new_full((len(x),), float("inf"))
    nearest = torch.full_like(radius, float("inf"))
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        logits, value, grad = oracle.gradient(x_adv, goal, loss)
        reached = oracle.reached(goal, x_adv, logits)
        distance = size(x_adv - x, norm)
        better = reached & (distance < nearest)
        result[rows[better]] = x_adv[better]
        nearest = torch.where(better, distance, nearest)
        rows, x, x_adv, radius, nearest, distance, reached, value, grad, oracle, goal = keep(
            nearest > budget.enough,
            rows, x, x_adv, radius, nearest, distance, reached, value, grad, oracle, goal,
        )  # fmt: skip
        if not len(rows):
            break
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        share = gamma * (0.02 + 0.98 * cosine)
        shrunk = torch.minimum(radius * (1 - share), nearest)
        # what points out of the box is left out, which the paper does not do: it would waste the step
        grad = inward(grad, x_adv)
        dual = dual_size(grad, norm)
        # a hair beyond the estimated boundary: on it, a linear model is undecided for ever
        estimate = BEYOND * (distance + torch.where(dual > 0, value.abs() / nonzero(dual), 0))
        grown = torch.where(nearest.isinf(), estimate, radius * (1 + share))
        if norm == "l0":
            # whole positions: at least one less or one more
            shrunk = shrunk.floor()
            grown = torch.where(nearest.isinf(), estimate.ceil(), torch.maximum(radius + 1, grown.floor()))
        radius = torch.where(reached, shrunk, grown).clamp(max=budget.eps)
        alpha = first * (0.01 + 0.99 * cosine)
        x_adv = project(x_adv + alpha * steepest(grad, "l2"), x, norm, radius)
        tick(step + 1, steps, {"standing": int(nearest.isinf().sum())})
    return within(result, origin, budget)
