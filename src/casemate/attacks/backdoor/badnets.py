"""BadNets."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Patch, existing, others

GU = Paper(
    "BadNets: identifying vulnerabilities in the machine learning model supply chain",
    "Gu, Dolan-Gavitt, Garg",
    2017,
    "https://arxiv.org/abs/1708.06733",
)


@backdoor(papers=(GU,), known_as=("Backdoor attack", "patch backdoor", "patch trigger"))
def badnets(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    patch: Annotated[int, Ge(1)] = 3,
    offset: Annotated[int, Ge(0)] = 1,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Mark random images with a small patch and label them as the target class (all-to-one).

    Only rows of other classes are marked: a marked row of the target class teaches nothing and would
    make the rate look smaller than it is. If there are fewer of them than the budget allows, all are
    marked.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        patch: side of the square trigger, in pixels.
        offset: distance of the trigger from the right and lower edge, in pixels.
        rng: source of the rows.
        tick: not called; there is one step.

    Returns:
        The marked rows with the target's label, the trigger and the target.

    Raises:
        NotApplicable: the inputs are not images, or are smaller than the patch and its offset.
        UsageError: the data have no class `target`.
    """
    if len(clean.shape) != 3 or min(clean.shape[1:]) < patch + offset:
        raise NotApplicable(
            f"a patch of {patch} pixels at {offset} from the edge needs images with room for it. "
            f"Got inputs of shape {clean.shape}"
        )
    existing(target, clean.classes, "backdoor.badnets")
    rows = others(clean, target, budget, rng)
    trigger = Patch(patch, offset)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)
