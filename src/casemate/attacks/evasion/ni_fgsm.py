"""The Nesterov iterative fast gradient sign method."""

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

LIN = Paper(
    "Nesterov accelerated gradient and scale invariance for adversarial attacks",
    "Lin, Song, He, Wang, Hopcroft",
    2020,
    "https://arxiv.org/abs/1908.06281",
)


@evasion(
    norms=("linf",),
    papers=(LIN,),
    known_as=("NI-FGSM", "Nesterov iFGSM", "Nesterov iterative FGSM"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.steps * passes(params.views), gradients=params.steps * passes(params.views)
    ),
)
def ni_fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Follow the momentum of gradients taken where the momentum is about to lead.

    With `decay` 0 this is the iterative FGSM; with views "si" it is the paper's SI-NI-FGSM, with
    "si,di,ti" its SI-NI-TI-DIM.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        views: ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for the plain one.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of what views draw, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    seen = sight(views)
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for step in range(steps):
        # the paper divides gradients by their sum, its code by their mean, as here: in the paper's unit
        # the look ahead would be a step of a thousandth
        ahead = x_adv + alpha * decay * momentum
        value, grad = gradient(oracle, ahead, goal, loss, rng, seen)
        momentum = decay * momentum + mean_scaled(grad)
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
