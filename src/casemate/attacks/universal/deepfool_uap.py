"""Universal adversarial perturbation by DeepFool, as it was first described."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, universal
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Lp, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.gradients import nearest_boundary
from casemate.ops.losses import others
from casemate.ops.norms import dual_size, project, reach, shrink, size

MOOSAVI = Paper(
    "Universal adversarial perturbations",
    "Moosavi-Dezfooli, Fawzi, Fawzi, Frossard",
    2017,
    "https://arxiv.org/abs/1610.08401",
)

SLACK = 0.02  # share of the checked inputs that a step may cost, or the search ends in the first dead end


@universal(
    norms=("linf", "l2"),
    papers=(MOOSAVI,),
    known_as=("DeepFool-UAP", "UAP by DeepFool"),
    wish="any class but its own",
)
def deepfool_uap(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    fooled: Annotated[float, Ge(0), Le(1)] = 0.8,
    passes: Annotated[int, Ge(1)] = 1,
    images: Annotated[int, Ge(1)] = 500,
    check: Annotated[int, Ge(0)] = 200,
    steps: Annotated[int, Ge(1)] = 10,
    overshoot: Annotated[float, Ge(0)] = 0.02,
    classes: Annotated[int, Ge(2)] = 10,
    rng: Generator,
    tick: Tick = ignore,
) -> Callable[[Tensor], Tensor]:
    """Go through inputs and add the least step that carries each one, perturbed so far, over a boundary.

    The original algorithm, one input after another. A step after which the sum fools clearly fewer of
    some inputs is left out, and of all sums the best one is kept.

    Args:
        oracle: white-box access to the target.
        x: inputs (N, *S) to learn from, each value in [0, 1].
        goal: misclassification; a target class is refused.
        budget: ball around every input that the result stays in.
        fooled: share of the inputs learnt from at which the search ends (1 - delta in the paper).
        passes: most passes through the inputs.
        images: most inputs to learn from.
        check: number of inputs by which steps are judged; 0 keeps every step, as the paper does.
        steps: most DeepFool steps for one input; one that does not cross is skipped.
        overshoot: share of the way by which each point is carried beyond the boundary.
        classes: number of classes, the likeliest, whose boundaries are considered.
        rng: source of the order of the inputs.
        tick: called after each input with the share fooled at the last check.

    Returns:
        The map that adds the perturbation to inputs and keeps them in ball and box.

    Raises:
        NotApplicable: the goal is not misclassification.
    """
    if not isinstance(goal, Misclassify):
        raise NotApplicable("universal.deepfool_uap knows misclassification only, no target class")
    chosen = torch.randperm(len(x), generator=rng)[:images]
    judges = chosen[:check]
    v = kept = x.new_zeros(1, *x.shape[1:])
    last, best, done = 0.0, 0.0, 0
    for _ in range(passes if len(chosen) else 0):
        for row in chosen[torch.randperm(len(chosen), generator=rng)].split(1):
            move = _cross(oracle[row], x[row], v, goal.y[row], steps, overshoot, min(classes, oracle.classes))
            done += 1
            if move is not None:
                new = shrink(v + move, budget.norm, budget.radius)
                # The paper keeps every step and ends with the last sum. Where one input's step is nearly as
                # large as the ball, as on small pictures, each undoes the ones before and the sum never
                # settles: so a step that costs too much is left out, and the best sum is given back.
                share = _share(oracle[judges], x[judges], new, goal[judges]) if check else 0.0
                if share >= last - SLACK:
                    v, last = new, share
                if share >= best:
                    kept, best = new, share
            tick(done, passes * len(chosen), {"fooled": best})
        if _share(oracle[chosen], x[chosen], kept, goal[chosen]) >= fooled:
            break
    return partial(_add, kept, budget)


def _cross(
    oracle: GradientOracle, x: Tensor, v: Tensor, y: Tensor, steps: int, overshoot: float, classes: int
) -> Tensor | None:
    """Find the least l2 step from x + v (1, *S) to another class than `y`; None if x + v or no step gives it.

    The steps are those of DeepFool in l2 whatever the ball's norm, as in the authors' code.
    """
    start = (x + v).clamp(0, 1)
    way, x_adv, rivals = torch.zeros_like(x), start, None
    for step in range(steps + 1):
        z = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits = oracle.graph(z)
            if bool(logits.argmax(1) != y):
                return (1 + overshoot) * way if step else None
            if step == steps:
                break
            if rivals is None:
                rivals = others(logits.detach(), y).topk(classes - 1, 1).indices
            gap, slope = nearest_boundary(logits, z, y, rivals, "l2")
        # the authors' code adds 1e-4 to each step so that none ends on the boundary itself; here it is
        # a thousandth of the way so far, which no change of units alters
        extra = 1e-3 * size(way, "l2") * dual_size(slope, "l2")
        # the paper knows no box; here the step is the shortest one inside it
        way = way + reach(z.detach(), slope, gap.abs() + extra, "l2")
        x_adv = (start + (1 + overshoot) * way).clamp(0, 1)
    return None


def _share(oracle: GradientOracle, x: Tensor, v: Tensor, goal: Goal) -> float:
    """Share of the rows that v fools."""
    return float(oracle.succeeds((x + v).clamp(0, 1), goal).double().mean()) if len(x) else 0.0


def _add(v: Tensor, budget: Lp, x: Tensor) -> Tensor:
    return project(x + v.to(x), x, budget.norm, budget.radius)
