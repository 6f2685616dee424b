"""The fast gradient sign method."""

import torch
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import linear_optimum, per_row
from casemate.ops.rng import RowGenerator

GOODFELLOW = Paper(
    "Explaining and harnessing adversarial examples",
    "Goodfellow, Shlens, Szegedy",
    2015,
    "https://arxiv.org/abs/1412.6572",
)
HUANG = Paper(
    "Adversarial attacks on neural network policies",
    "Huang, Papernot, Goodfellow, Duan, Abbeel",
    2017,
    "https://arxiv.org/abs/1702.02284",
)


@evasion(
    norms=("linf", "l2", "l1"),
    papers=(GOODFELLOW, HUANG),
    known_as=("fast gradient sign method", "fast gradient method", "FGM"),
    coarse=True,
    cost=lambda params, classes: Cost(queries=1, gradients=1),
)
def fgsm(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Take one step, the best one were the model linear.

    In linf every value moves by eps along the sign of the gradient. In l2 and l1 (Huang et al.)
    the step follows the gradient, or the values with the largest gradients, until the radius is
    spent. A row that reaches the goal as it is stays as it is.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        loss: surrogate whose gradient is followed; `ce` is the log-odds of error, which has the
            direction of cross-entropy and does not saturate.
        rng: not used; the method is deterministic.
        tick: called once, with the mean loss at `x`.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    seen = oracle.gradient(x, goal, loss)
    # Huang et al. clip to the box after the step; here the l2 and l1 steps know the box, so that no
    # radius is spent on values which cannot move (four in five pixels of a handwritten digit)
    x_adv = linear_optimum(x, seen.grad, budget.norm, budget.radius)
    tick(1, 1, {"loss": seen.loss.mean().item()})
    return torch.where(per_row(oracle.reached(goal, x, seen.logits), x), x, x_adv)
