"""Backward pass differentiable approximation."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.adaptive import AUTO, adapted
from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import inward, project, random_in_ball, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

ATHALYE = Paper(
    "Obfuscated gradients give a false sense of security: circumventing defenses to adversarial examples",
    "Athalye, Carlini, Wagner",
    2018,
    "https://arxiv.org/abs/1802.00420",
)
TRIAL = 8  # rows that layers are tried on


@evasion(
    norms=("linf", "l2"),
    papers=(ATHALYE,),
    known_as=("BPDA", "backward pass differentiable approximation", "straight-through attack"),
    cost=lambda params, classes: Cost(queries=params.steps + 1, gradients=params.steps),
)
def bpda(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 40,
    step_size: Annotated[float, Gt(0)] | None = None,
    loss: Loss = "margin",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the goal's loss past layers that stop gradients: they get the gradient of a stand-in.

    Such layers are computed as they are in the forward pass. In the backward pass a layer that
    declares a stand-in (a method `stand_in`) gets the stand-in's gradient, and one that is found to let
    no gradient through, though it answers to finite steps, that of the identity. The steps are those of
    projected gradient descent. BPDA is a hook rather than an attack: `bpda = "auto"` in a plan does the
    same for every attack.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps.
        step_size: length of one step in the budget's norm, in units of `x`; None means
            2.5 * eps / steps.
        loss: surrogate to climb.
        rng: source of the random start, one stream per row.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    if not len(x):
        return x.clone()
    alpha = 2.5 * budget.radius / steps if step_size is None else step_size
    # looking for the layers runs the net on some rows; it is counted as a question about each
    oracle.logits(x)
    oracle = adapted(oracle, (AUTO,), x[:TRIAL])
    x_adv = (x + random_in_ball(x, budget.norm, budget.eps, rng)).clamp(0, 1)
    result = x.clone()
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        logits, value, grad = oracle.gradient(x_adv, goal, loss)
        done = oracle.reached(goal, x_adv, logits)
        result[rows[done]] = x_adv[done]
        rows, x, x_adv, grad, value, oracle, goal = keep(~done, rows, x, x_adv, grad, value, oracle, goal)
        if not len(rows):
            return result
        move = steepest(inward(grad, x_adv), budget.norm)
        x_adv = project(x_adv + alpha * move, x, budget.norm, budget.eps)
        tick(step + 1, steps, {"loss": value.mean().item(), "standing": len(rows)})
    result[rows] = x_adv
    return result
