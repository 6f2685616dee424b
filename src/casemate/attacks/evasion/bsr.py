"""Block shuffle and rotation."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import Sight, Views, gradient, passes, shuffled, sight
from casemate.ops.norms import mean_scaled, project
from casemate.ops.rng import RowGenerator

WANG = Paper(
    "Boosting adversarial transferability by block shuffle and rotation",
    "Wang, He, Wang, Wang",
    2024,
    "https://arxiv.org/abs/2308.10299",
)


@evasion(
    norms=("linf",),
    papers=(WANG,),
    known_as=("BSR", "block shuffle and rotation"),
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.steps * params.copies * passes(params.views),
        gradients=params.steps * params.copies * passes(params.views),
    ),
)
def bsr(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    copies: Annotated[int, Ge(1)] = 20,
    blocks: Annotated[int, Ge(1)] = 2,
    degrees: Annotated[float, Ge(0), Le(180)] = 24.0,
    views: Views = "",
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Follow the momentum of gradients averaged over copies whose blocks are shuffled and turned.

    Models look at different places of a picture. Where the places are torn apart in every copy, what is
    left to climb is what many models would see. With one block and no angle this is MI-FGSM at the
    price of all the copies.

    Args:
        oracle: white-box access to a surrogate of the target, or to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        copies: number of copies at each step (N in the paper); each costs a pass.
        blocks: strips that each copy is cut into, and blocks in each strip (n in the paper).
        degrees: largest angle by which a block is turned, to either side (tau in the paper).
        views: further ways of taking a gradient, between commas: di (input diversity), ti (smoothing over
            shifts), si (scaled copies); "" for none.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of the cuts, orders and angles, one stream per row.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, C, H, W), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    # the authors' code turns whole strips, the paper the blocks; both cut unevenly
    seen = sight(views, Sight(looks=(shuffled(copies, blocks, degrees),)))
    x_adv, momentum = x.clone(), torch.zeros_like(x)
    for step in range(steps):
        value, grad = gradient(oracle, x_adv, goal, loss, rng, seen)
        momentum = decay * momentum + mean_scaled(grad)
        x_adv = project(x_adv + alpha * momentum.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv
