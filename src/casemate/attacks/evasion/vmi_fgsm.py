"""The variance-tuned momentum iterative fast gradient sign method."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import Views, gradient, passes, sight
from casemate.ops.norms import mean_scaled, project
from casemate.ops.rng import RowGenerator

WANG = Paper(
    "Enhancing the transferability of adversarial attacks through variance tuning",
    "Wang, He",
    2021,
    "https://arxiv.org/abs/2103.15571",
)


@evasion(
    norms=("linf",),
    papers=(WANG,),
    known_as=("VMI-FGSM", "VT-MI-FGSM", "variance tuning"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.steps * (params.neighbours + 1) * passes(params.views),
        gradients=params.steps * (params.neighbours + 1) * passes(params.views),
    ),
)
def vmi_fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    neighbours: Annotated[int, Ge(1)] = 20,
    reach: Annotated[float, Ge(0)] = 1.5,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Correct each gradient by how the last one differed from those of its neighbourhood.

    The correction v = mean grad(x + r) - grad(x) steadies the direction. With `reach` 0 it vanishes,
    and this is MI-FGSM at a higher price.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        neighbours: number of random points around each iterate (N in the paper); each costs a pass.
        reach: half the side of the cube that they come from, in multiples of eps (beta in the paper).
        views: ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for the plain one.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of the neighbours, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    seen, radius = sight(views), reach * budget.radius
    x_adv, momentum, variance = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for step in range(steps):
        value, grad = gradient(oracle, x_adv, goal, loss, rng, seen)
        momentum = decay * momentum + mean_scaled(grad + variance)
        around = torch.zeros_like(x)
        for _ in range(neighbours):
            near = x_adv + radius * (2 * rng.uniform(*x.shape[1:]).to(x) - 1)
            around += gradient(oracle, near, goal, loss, rng, seen)[1] / neighbours
        variance = around - grad
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
