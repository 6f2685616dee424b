"""Random noise: what a budget does to a model without any attack."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import LabelOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import linear_optimum, random_in_ball
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

FAWZI = Paper(
    "Robustness of classifiers: from adversarial to random noise",
    "Fawzi, Moosavi-Dezfooli, Frossard",
    2016,
    "https://arxiv.org/abs/1608.08967",
)


@evasion(
    norms=("linf", "l2", "l1", "l0"),
    papers=(FAWZI,),
    known_as=("uniform noise", "random baseline"),
    cost=lambda params, classes: Cost(queries=params.draws - 1),
)
def random_noise(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    draws: Annotated[int, Ge(1)] = 10,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Add random noise of the full budget several times and keep the first that works.

    The baseline that every attack must beat. Draws alternate between the point of ball and box that
    lies farthest along a random direction, where noise is largest (random signs in linf, random
    pixels at an edge in l1 and l0), and points uniform in the ball. The last draw is left to the
    judge. A budget of fewer queries allows fewer draws.

    Args:
        oracle: access to the target's decisions.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        draws: number of tries per row.
        rng: source of the noise, one stream per row.
        tick: called after each draw with the number of rows that still stand.

    Returns:
        Candidates (N, *S), in the ball and in [0, 1].
    """
    tries = draws if budget.queries is None else min(draws, budget.queries + 1)
    result = x.clone()
    rows = torch.arange(len(x), device=x.device)
    for draw in range(tries):
        if draw % 2 == 0:
            direction = rng.normal(*x.shape[1:]).to(x)
            x_adv = linear_optimum(x, direction, budget.norm, budget.radius)
        else:
            x_adv = (x + random_in_ball(x, budget.norm, budget.radius, rng)).clamp(0, 1)
        result[rows] = x_adv
        if draw + 1 < tries:
            stand = ~oracle.succeeds(x_adv, goal)
            rows, x, oracle, goal, rng = keep(stand, rows, x, oracle, goal, rng)
        tick(draw + 1, tries, {"standing": len(rows)})
    return result
