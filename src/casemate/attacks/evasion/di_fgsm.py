"""The diverse inputs iterative fast gradient sign method with momentum."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import PROBABILITY, SMALLEST, Sight, Views, diverse, gradient, passes, sight
from casemate.ops.norms import mean_scaled, project
from casemate.ops.rng import RowGenerator

XIE = Paper(
    "Improving transferability of adversarial examples with input diversity",
    "Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille",
    2019,
    "https://arxiv.org/abs/1803.06978",
)


@evasion(
    norms=("linf",),
    papers=(XIE,),
    known_as=("DI-FGSM", "DIM", "DI2-FGSM", "M-DI2-FGSM", "diverse input method"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.steps * passes(params.views), gradients=params.steps * passes(params.views)
    ),
)
def di_fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    probability: Annotated[float, Ge(0), Le(1)] = PROBABILITY,
    smallest: Annotated[float, Gt(0), Le(1)] = SMALLEST,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Follow the momentum of gradients at pictures that are randomly made smaller and moved.

    An example that works at every size and place depends less on the one model that it was made on.
    With `probability` 0 this is MI-FGSM, with `decay` 0 the paper's DI2-FGSM.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        probability: chance that a step sees an altered picture, in [0, 1].
        smallest: least size of an altered picture, as a share of its sides in (0, 1].
        views: further ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for none.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of sizes and places, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, C, H, W), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    seen = sight(views, Sight(looks=(diverse(probability, smallest),)))
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for step in range(steps):
        value, grad = gradient(oracle, x_adv, goal, loss, rng, seen)
        momentum = decay * momentum + mean_scaled(grad)
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
