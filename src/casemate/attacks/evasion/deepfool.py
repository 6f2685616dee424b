"""DeepFool."""

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Clearly, Goal, Lp, Misclassify, within
from casemate.core.tick import Tick, ignore
from casemate.ops.gradients import nearest_boundary
from casemate.ops.losses import others
from casemate.ops.norms import dual_size, reach, size
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

MOOSAVI = Paper(
    "DeepFool: a simple and accurate method to fool deep neural networks",
    "Moosavi-Dezfooli, Fawzi, Frossard",
    2016,
    "https://arxiv.org/abs/1511.04599",
)


def _cost(params: Any, classes: int) -> Cost:
    rivals = min(params.rivals or classes, classes - 1)
    return Cost(queries=params.steps + 1, gradients=params.steps * rivals)


@evasion(
    norms=("l2", "linf"),
    papers=(MOOSAVI,),
    known_as=("DeepFool",),
    minimum_norm=True,
    cost=_cost,
)
def deepfool(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 50,
    overshoot: Annotated[float, Ge(0)] = 0.02,
    rivals: Annotated[int, Ge(1)] | None = 9,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Step to the nearest boundary of the model's linearisation until one is crossed.

    A quick estimate of the distance to the boundary, not the nearest example: a row leaves with the
    first example it meets. For untargeted goals only.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: misclassification; a target class is refused.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: most steps per row.
        overshoot: share of the way by which each point is carried beyond the boundary.
        rivals: number of classes, the likeliest at `x`, whose boundaries are considered, each at
            one backward pass a step; None means all.
        rng: not used; the method is deterministic.
        tick: called after each step with the number of rows that still stand.

    Returns:
        Examples (N, *S) in the ball and in [0, 1]; `x` where none was found.

    Raises:
        NotApplicable: the goal is not misclassification.
    """
    if not isinstance(goal, Misclassify):
        raise NotApplicable("evasion.deepfool knows misclassification only, no target class")
    result, x, y, wish = x.detach().clone(), x.detach(), goal.y, Clearly(goal)
    x_adv, way, origin = x, torch.zeros_like(x), x
    rows = torch.arange(len(x), device=x.device)
    nearby = torch.zeros(0)
    for step in range(steps):
        z = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits = oracle.graph(z)
            if step == 0:
                count = min(rivals or oracle.classes, oracle.classes - 1)
                nearby = others(logits.detach(), y).topk(count, 1).indices
            gap, slope = nearest_boundary(logits, z, y, nearby, budget.norm)
        done = oracle.reached(wish, x_adv, logits.detach())
        result[rows[done]] = x_adv[done]
        rows, x, y, x_adv, way, nearby, gap, slope, oracle, wish = keep(
            ~done, rows, x, y, x_adv, way, nearby, gap, slope, oracle, wish
        )
        if not len(rows):
            break
        # the authors' code adds 1e-4 to each step so that none ends on the boundary itself; here it is
        # a thousandth of the way so far, which no change of units alters
        extra = 1e-3 * size(way, budget.norm) * dual_size(slope, budget.norm)
        # the paper knows no box; here the step is the shortest one inside it
        way = way + reach(x_adv, slope, gap.abs() + extra, budget.norm)
        x_adv = (x + (1 + overshoot) * way).clamp(0, 1)
        tick(step + 1, steps, {"standing": len(rows)})
    if len(rows):
        done = oracle.succeeds(x_adv, wish)
        result[rows[done]] = x_adv[done]
    return within(result, origin, budget)
