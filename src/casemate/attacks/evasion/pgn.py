"""Penalising the gradient norm."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import Views, gradient, passes, sight
from casemate.ops.norms import mean_scaled, project
from casemate.ops.rng import RowGenerator

GE = Paper(
    "Boosting adversarial transferability by achieving flat local maxima",
    "Ge, Liu, Wang, Shang, Liu",
    2023,
    "https://arxiv.org/abs/2306.05225",
)


@evasion(
    norms=("linf",),
    papers=(GE,),
    known_as=("PGN", "penalizing gradient norm", "flat local maxima"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=2 * params.steps * params.samples * passes(params.views),
        gradients=2 * params.steps * params.samples * passes(params.views),
    ),
)
def pgn(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    samples: Annotated[int, Ge(1)] = 20,
    reach: Annotated[float, Ge(0)] = 3.0,
    balance: Annotated[float, Ge(0), Le(1)] = 0.5,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Seek a maximum of the loss around which the loss is flat, since other models share those.

    At random points near the iterate the gradient is mixed with the one a step downhill; their difference
    stands for the second derivative that the slope's penalty needs. With `reach` 0, one sample and
    `balance` 0 this is MI-FGSM at twice the price.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        samples: number of random points around each iterate (N in the paper); each costs two passes.
        reach: half the side of the cube that they come from, in multiples of eps (zeta in the paper).
        balance: weight of the gradient a step downhill, in [0, 1] (delta in the paper).
        views: ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for the plain one.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of the random points, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    seen, radius = sight(views), reach * budget.radius
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for step in range(steps):
        total, value = torch.zeros_like(x), x.new_zeros(len(x))
        for _ in range(samples):
            near = x_adv + radius * (2 * rng.uniform(*x.shape[1:]).to(x) - 1)
            value, here = gradient(oracle, near, goal, loss, rng, seen)
            # the paper divides by the sum of |grad|, its code by the mean
            _, below = gradient(oracle, near - alpha * mean_scaled(here), goal, loss, rng, seen)
            total += (1 - balance) * here + balance * below
        momentum = decay * momentum + mean_scaled(total)
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
