"""Projected gradient descent."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import inward, project, random_in_ball, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

MADRY = Paper(
    "Towards deep learning models resistant to adversarial attacks",
    "Madry, Makelov, Schmidt, Tsipras, Vladu",
    2018,
    "https://arxiv.org/abs/1706.06083",
)
TRAMER = Paper(
    "Adversarial training and robustness for multiple perturbations",
    "Tramèr, Boneh",
    2019,
    "https://arxiv.org/abs/1904.13000",
)


@evasion(
    norms=("linf", "l2", "l1"),
    papers=(MADRY, TRAMER),
    known_as=("projected gradient descent", "SLIDE", "sparse l1 descent"),
    # all starts but the last must be judged at their end; the last is left to the harness
    coarse=True,
    cost=lambda params, classes: Cost(
        queries=params.restarts * (params.steps + 1) - 1, gradients=params.restarts * params.steps
    ),
)
def pgd(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 40,
    step_size: Annotated[float, Gt(0)] | None = None,
    restarts: Annotated[int, Ge(1)] = 1,
    loss: Loss = "ce",
    l1_share: Annotated[float, Gt(0), Le(1)] = 0.01,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the goal's loss by projected gradient steps from random starts.

    A row that reaches the goal leaves at once, so passes go to the rows that still stand. In l1 the
    step is that of SLIDE (Tramèr & Boneh): it is spread over the values with the largest gradients.
    The steps have constant length, as in the paper; near an optimum in l2 or l1 they end a little
    short of it, which `evasion.apgd` does not.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps from each start.
        step_size: length of one step in the budget's norm, in units of `x`; None means
            2.5 * eps / steps.
        restarts: number of random starts per row.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        l1_share: share of the values that one l1 step changes, in (0, 1]; other norms ignore it.
        rng: source of the random starts, one stream per row.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    alpha = 2.5 * budget.radius / steps if step_size is None else step_size
    result = x.clone()
    rows = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        x_adv = (x + random_in_ball(x, budget.norm, budget.eps, rng)).clamp(0, 1)
        for step in range(steps):
            logits, value, grad = oracle.gradient(x_adv, goal, loss)
            done = oracle.reached(goal, x_adv, logits)
            result[rows[done]] = x_adv[done]
            rows, x, x_adv, grad, value, oracle, goal, rng = keep(
                ~done, rows, x, x_adv, grad, value, oracle, goal, rng
            )
            if not len(rows):
                return result
            # the paper lets l2 steps push against the box as well, which wastes their length
            move = steepest(inward(grad, x_adv), budget.norm, l1_share)
            x_adv = project(x_adv + alpha * move, x, budget.norm, budget.eps)
            tick(
                restart * steps + step + 1, restarts * steps,
                {"loss": value.mean().item(), "standing": len(rows)},
            )  # fmt: skip
        result[rows] = x_adv
        if restart + 1 < restarts:
            stand = ~oracle.succeeds(x_adv, goal)
            rows, x, oracle, goal, rng = keep(stand, rows, x, oracle, goal, rng)
    return result
