"""Adversarial examples in the physical world: digital ones, printed and photographed."""

import math
from typing import Literal, assert_never

from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.physical import PhysicalBudget, Print
from casemate.core.registry import Paper, physical
from casemate.core.target import GradientOracle
from casemate.core.threat import Become, Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import project
from casemate.ops.rng import RowGenerator

KURAKIN = Paper(
    "Adversarial examples in the physical world",
    "Kurakin, Goodfellow, Bengio",
    2017,
    "https://arxiv.org/abs/1607.02533",
)


@physical(
    papers=(KURAKIN,),
    known_as=(
        "Physical world AE", "adversarial examples in the physical world", "printed adversarial examples",
        "iterative least-likely class method",
    ),
)  # fmt: skip
def printed(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: PhysicalBudget,
    /,
    *,
    method: Literal["fast", "basic_iterative", "least_likely"] = "basic_iterative",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Make digital adversarial examples and leave it to chance whether they survive the camera.

    The fast method takes one step of eps along the gradient's sign. The basic iterative method takes
    steps of one level, 1/255, min(255 eps + 4, 1.25 * 255 eps) of them. The iterative least-likely
    class method takes the same steps towards the class that the clean picture resembles least. The
    paper found that the crude fast method survives printing better than the finer ones.

    Args:
        oracle: white-box access to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row; the least-likely class takes its place.
        budget: ball around `x`, a print in linf.
        method: which of the paper's three methods.
        rng: not used; the methods are deterministic.
        tick: called after each step with the mean loss.

    Returns:
        Pictures to print (N, C, H, W), in the ball and in [0, 1].

    Raises:
        NotApplicable: the budget is no print in linf.
    """
    if not isinstance(budget, Print) or budget.norm != "linf":
        raise NotApplicable("physical.printed changes a print within linf; stickers are for physical.rp2")
    match method:
        case "fast":
            steps, step_size = 1, budget.eps
        case "basic_iterative" | "least_likely":
            steps, step_size = _steps(budget.eps), 1 / 255
        case _:
            assert_never(method)
    if method == "least_likely" and len(x):
        goal = Become(oracle.logits(x).argmin(1))
    x_adv = x
    for step in range(steps):
        seen = oracle.gradient(x_adv, goal)
        # no row leaves early: an example deep in the other class survives the camera better
        x_adv = project(x_adv + step_size * seen.grad.sign(), x, "linf", budget.eps)
        tick(step + 1, steps, {"loss": seen.loss.mean().item()} if len(x) else {})
    return x_adv if steps else x.clone()


def _steps(eps: float) -> int:
    """Number of steps of one level that the paper takes for a radius."""
    levels = 255 * eps
    # the paper's number is no integer; rounding up, as its eps in levels is one, errs on its side
    return math.ceil(min(levels + 4, 1.25 * levels) - 1e-9)
