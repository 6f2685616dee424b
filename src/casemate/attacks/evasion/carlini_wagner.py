"""Carlini and Wagner's attack in l2."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Clearly, Goal, Lp, within
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import nonzero, size
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

CARLINI = Paper(
    "Towards evaluating the robustness of neural networks",
    "Carlini, Wagner",
    2017,
    "https://arxiv.org/abs/1608.04644",
)
# the paper maps w to the open box; values of exactly 0 and 1 then lie at infinity, and near them the
# gradient vanishes. Here tanh spans a box 1.3 times as wide, and what leaves [0, 1] is clipped
STRETCH = 1.3
LAST = 0.01  # share of the step size that is left at the end of a search


@dataclass(frozen=True)
class _Descent:
    """How a search goes: its steps, their size in the space of w, and the margin that counts."""

    steps: int
    step_size: float
    confidence: float


@evasion(
    norms=("l2",),
    papers=(CARLINI,),
    known_as=("Carlini-Wagner", "C&W", "CW", "Carlini & Wagner L2"),
    minimum_norm=True,
    # one pass on x gives the units
    cost=lambda params, classes: Cost(
        queries=1 + params.searches * params.steps, gradients=1 + params.searches * params.steps
    ),
)
def carlini_wagner(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    searches: Annotated[int, Ge(1)] = 5,
    step_size: Annotated[float, Gt(0)] = 0.1,
    weight: Annotated[float, Gt(0)] = 10.0,
    confidence: Annotated[float, Ge(0)] = 0.0,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Minimise the squared distance plus a weighted hinge on the margin, and search for the weight.

    |x_adv - x|^2 + c * max(0, confidence - margin / unit) is minimised by Adam in a space where tanh
    keeps the box. Where an example is found c is lowered, else raised, each row on its own. With a
    finite radius a row leaves as soon as the ball holds an example of it.

    Deviations from the paper: the margin is measured in units of the row's clean margin, and the
    first c in units of the squared distance that a linear model would give, so that both mean the
    same for every model, row and scale of logits; the step size falls along a cosine, so that a
    hundred steps do what constant ones do in thousands. The paper's code ends a search when the loss
    of the batch stalls; here a search gains until its end, where the steps are smallest, and all
    steps are made.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: number of steps of each search.
        searches: number of weights c tried per row.
        step_size: first step of Adam in the space of tanh, where x = 1/2 + 0.65 * tanh(w).
        weight: first c, in units of the squared distance that a linear model would give.
        confidence: margin that an example must have, in units of the row's clean margin.
        rng: not used; the method is deterministic.
        tick: called after each step with the mean loss and the number of rows that are still searched.

    Returns:
        Nearest examples met (N, *S), in the ball and in [0, 1]; `x` where none was.
    """
    x, goal = x.detach(), Clearly(goal)
    clean, margin, slope = oracle.gradient(x, goal, "margin")
    unit, descent = nonzero(margin.abs()), _Descent(steps, step_size, confidence)
    wrong = oracle.reached(goal, x, clean) & (margin >= confidence * unit)
    result, nearest = x.clone(), torch.where(wrong, 0, torch.full_like(margin, float("inf")))
    c = weight * _estimate(x, margin, slope).square()
    low, high = torch.zeros_like(c), torch.full_like(c, float("inf"))
    for search in range(searches):
        rows = (nearest > budget.enough).nonzero().flatten()

        def report(step: int, values: Mapping[str, float], search: int = search) -> None:
            tick(search * steps + step, searches * steps, values)

        points, sizes = _minimise(
            oracle[rows], x[rows], goal[rows], budget, unit[rows], c[rows], descent, report
        )
        nearer, found = sizes < nearest[rows], sizes.isfinite()
        result[rows[nearer]] = points[nearer]
        nearest[rows[nearer]] = sizes[nearer]
        high[rows[found]], low[rows[~found]] = c[rows[found]], c[rows[~found]]
        c = torch.where(high.isinf(), 10 * c, (low + high) / 2)
    return within(result, x, budget)


def _estimate(x: Tensor, margin: Tensor, slope: Tensor) -> Tensor:
    """Distance to the boundary were the model linear, at most that to the farthest corner, (N,)."""
    steepness, corner = size(slope, "l2"), size(torch.maximum(x, 1 - x), "l2")
    return torch.where(steepness > 0, margin.abs() / nonzero(steepness), corner).minimum(corner)


def _minimise(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    unit: Tensor,
    c: Tensor,
    descent: _Descent,
    report: Callable[[int, Mapping[str, float]], None],
) -> tuple[Tensor, Tensor]:
    """Descend once from x: the nearest examples met and their sizes, infinite where there is none."""
    points, nearest = x.clone(), torch.full_like(c, float("inf"))
    rows = torch.arange(len(x), device=x.device)
    w = torch.atanh((2 * x - 1) / STRETCH)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, descent.steps + 1):
        if not len(rows):
            break
        x_adv, logits, loss, grad = _objective(oracle, x, w, goal, unit, c, descent.confidence)
        sure = goal.loss(logits, "margin") >= descent.confidence * unit
        sizes = size(x_adv - x, "l2")
        better = oracle.reached(goal, x_adv, logits) & sure & (sizes < nearest[rows])
        points[rows[better]] = x_adv[better]
        nearest[rows[better]] = sizes[better]
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad.square()
        rate = LAST + (1 - LAST) * (1 + math.cos(math.pi * step / descent.steps)) / 2
        # Adam's 1e-8 can stay absolute: the units have given the gradient the scale of x
        move = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        w = w - descent.step_size * rate * move
        report(step, {"loss": loss.mean().item(), "standing": len(rows)})
        rows, x, w, mean, square, unit, c, oracle, goal = keep(
            nearest[rows] > budget.enough, rows, x, w, mean, square, unit, c, oracle, goal
        )
    return points, nearest


def _objective(
    oracle: GradientOracle, x: Tensor, w: Tensor, goal: Goal, unit: Tensor, c: Tensor, confidence: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate the objective at w: inputs (N, *S), logits (N, K), losses (N,), gradient (N, *S)."""
    w = w.detach().requires_grad_()
    with torch.enable_grad():
        free = (STRETCH * torch.tanh(w) + 1) / 2
        x_adv = free.clamp(0, 1)
        logits = oracle.graph(x_adv)
        shortfall = (confidence - goal.loss(logits, "margin") / unit).clamp(min=0)
        # the distance is taken before clipping: it draws values that left the box back to its edge
        loss = (free - x).flatten(1).square().sum(1) + c * shortfall
        (grad,) = torch.autograd.grad(loss.sum(), w)
    return x_adv.detach(), logits.detach(), loss.detach(), grad
