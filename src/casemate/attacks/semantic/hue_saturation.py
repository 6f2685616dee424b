"""Semantic adversarial examples by one shift of hue and saturation."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, semantic
from casemate.core.semantic import Colours, SemanticBudget
from casemate.core.spaces import space_of
from casemate.core.target import LabelOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

HOSSEINI = Paper(
    "Semantic adversarial examples", "Hosseini, Poovendran", 2018, "https://arxiv.org/abs/1804.00499"
)


@semantic(papers=(HOSSEINI,), known_as=("hue and saturation attack", "color-shifted images", "colour shift"))
def hue_saturation(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: SemanticBudget,
    /,
    *,
    trials: Annotated[int, Ge(1)] = 1000,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Shift a picture's hue and saturation at random, with ever more saturation, until it is misread.

    Trial i of n shifts the hue by any angle and the saturation by at most a share i / n of the limit, so
    that pictures whose colours stay lively are tried first. The brightness of each pixel stays.

    Args:
        oracle: access to the target's decisions.
        x: clean pictures (N, 3, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: largest shifts of hue and saturation, a `Colours` budget.
        trials: shifts tried; one query each.
        rng: source of the shifts, one stream per row.
        tick: called after each trial with the share of rows done.

    Returns:
        Shifts (N, 2) of hue and saturation; zero where none succeeds.

    Raises:
        NotApplicable: the budget is not one of colours, or the inputs are not pictures in colour.
    """
    if not isinstance(budget, Colours):
        raise NotApplicable("semantic.hue_saturation shifts colours: it needs a budget of colours")
    space = space_of(budget, x, goal)
    result = space.start.clone()
    if budget.hue == budget.saturation == 0:
        return result
    left, most = torch.arange(len(x), device=x.device), min(trials, budget.queries or trials)
    for i in range(1, most + 1):
        shift = (rng.uniform(2).to(x) * 2 - 1) * space.scale
        shift = torch.stack([shift[:, 0], shift[:, 1] * i / most], 1)
        reached = oracle.succeeds(space.decode(shift), goal)
        result[left[reached]] = shift[reached]
        oracle, space, goal, rng, left = keep(~reached, oracle, space, goal, rng, left)
        tick(i, most, {"done": 1 - len(left) / len(x)} if len(x) else {})
        if not len(left):
            break
    return result
