"""The translation-invariant iterative fast gradient sign method with momentum."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.errors import UsageError
from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import KERNEL, Sight, Views, blurred, gradient, passes, sight
from casemate.ops.norms import mean_scaled, project
from casemate.ops.rng import RowGenerator

DONG = Paper(
    "Evading defenses to transferable adversarial examples by translation-invariant attacks",
    "Dong, Pang, Su, Zhu",
    2019,
    "https://arxiv.org/abs/1904.02884",
)


@evasion(
    norms=("linf",),
    papers=(DONG,),
    known_as=("TI-FGSM", "TIM", "TI-MI-FGSM", "translation-invariant method"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.steps * passes(params.views), gradients=params.steps * passes(params.views)
    ),
)
def ti_fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    kernel: Annotated[int, Ge(1)] = KERNEL,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Follow the momentum of blurred gradients, as if the picture were seen at many places at once.

    For a net that commutes with shifts, blurring the gradient equals averaging gradients over shifted
    pictures. With a `kernel` of 1 this is MI-FGSM; with views "di" it is the paper's TI-DIM.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        kernel: side of the Gaussian kernel, in pixels, odd; the paper has 15 for pictures of 299 pixels.
        views: further ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for none.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of what further views draw, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, C, H, W), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    if kernel % 2 == 0:
        raise UsageError(f"The 'kernel' parameter of evasion.ti_fgsm must be odd. Got {kernel}.")
    seen = sight(views, Sight(blurs=(blurred(kernel),)))
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for step in range(steps):
        value, grad = gradient(oracle, x_adv, goal, loss, rng, seen)
        momentum = decay * momentum + mean_scaled(grad)
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
