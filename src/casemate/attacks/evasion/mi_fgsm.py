"""The momentum iterative fast gradient sign method."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import mean_scaled, project, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

DONG = Paper(
    "Boosting adversarial attacks with momentum",
    "Dong, Liao, Pang, Su, Zhu, Hu, Li",
    2018,
    "https://arxiv.org/abs/1710.06081",
)


@evasion(
    norms=("linf", "l2"),
    papers=(DONG,),
    known_as=("Momentum iFGSM", "MIM", "MI-FGSM", "momentum iterative FGSM"),
    coarse=True,
    cost=lambda params, classes: Cost(queries=params.steps, gradients=params.steps),
)
def mi_fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
    decay: Annotated[float, Ge(0)] = 1.0,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Follow the running sum of normalised gradients instead of the last one.

    The momentum g <- decay * g + grad / mean|grad| smooths the path, so that examples fool other
    models as well. With `decay` 0 this is the iterative FGSM (BIM). A row that reaches the goal
    leaves at once; examples meant to transfer need a goal that never ends
    (`NeverReached`), which transfer threats give them.

    Args:
        oracle: white-box access to the target, or to a surrogate of it.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps.
        step_size: length of one step in the budget's norm, in units of `x`; None means eps / steps.
        decay: share of the momentum that each step keeps (mu in the paper), at least 0.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: not used; the method is deterministic.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    alpha = budget.radius / steps if step_size is None else step_size
    result, x_adv, momentum = x.clone(), x, torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        logits, value, grad = oracle.gradient(x_adv, goal, loss)
        done = oracle.reached(goal, x_adv, logits)
        result[rows[done]] = x_adv[done]
        rows, x, x_adv, momentum, grad, value, oracle, goal = keep(
            ~done, rows, x, x_adv, momentum, grad, value, oracle, goal
        )
        if not len(rows):
            break
        # the paper divides by the sum of |grad|, its code by the mean: only the unit differs
        momentum = decay * momentum + mean_scaled(grad)
        x_adv = project(x_adv + alpha * steepest(momentum, budget.norm), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item(), "standing": len(rows)})
    result[rows] = x_adv
    return result
