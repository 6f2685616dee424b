"""BadNets."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore

GU = Paper(
    "BadNets: identifying vulnerabilities in the machine learning model supply chain",
    "Gu, Dolan-Gavitt, Garg",
    2017,
    "https://arxiv.org/abs/1708.06733",
)


@backdoor(papers=(GU,), known_as=("patch backdoor", "patch trigger"))
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
            f"a patch of {patch} pixels at {offset} from the edge needs images. Got inputs of shape {clean.shape}"
        )
    if target >= clean.classes:
        raise UsageError(
            f"The 'target' of backdoor.badnets must be in 0 .. {clean.classes - 1}. Got {target}."
        )
    others = (clean.y != target).nonzero().flatten()
    order = torch.randperm(len(others), generator=rng)[: budget.rows(len(clean))]
    rows = others[order.to(others.device)]
    trigger = Patch(patch, offset)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)


@dataclass(frozen=True)
class Patch:
    """A square of alternating white and black pixels near the lower right corner.

    The pattern shows on bright and on dark ground alike.
    """

    size: int
    offset: int

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W)."""
        places = torch.arange(self.size, device=x.device)
        pattern = ((places[:, None] + places) % 2 == 0).to(x.dtype)
        marked = x.clone()
        low, right = (side - self.offset for side in x.shape[2:])
        marked[..., low - self.size : low, right - self.size : right] = pattern
        return marked
