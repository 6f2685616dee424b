"""Sleeper Agent: a backdoor whose trigger no training row shows, and whose labels are right."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.alignment import Pull, align, steepest_rows
from casemate.core.data import Poison, PoisonBudget
from casemate.core.errors import NotApplicable
from casemate.core.learner import trainable, weight_gradient
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Patch, existing
from casemate.core.workshop import Workshop

SOURI = Paper(
    "Sleeper Agent: scalable hidden trigger backdoors for neural networks trained from scratch",
    "Souri, Fowl, Chellappa, Goldblum, Goldstein",
    2022,
    "https://arxiv.org/abs/2106.08970",
)


@backdoor(
    papers=(SOURI,), known_as=("Sleeper Agent", "hidden-trigger backdoor by gradient matching"), version=2
)
def sleeper_agent(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    patch: Annotated[int, Ge(1)] = 8,
    offset: Annotated[int, Ge(0)] = 0,
    eps: Annotated[float, Gt(0), Le(1)] = 16 / 255,
    sources: Annotated[int, Ge(1)] = 500,
    step: Annotated[float, Gt(0), Le(1)] = 0.1,
    steps: Annotated[int, Ge(1)] = 250,
    retrainings: Annotated[int, Ge(0)] = 4,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Change rows of the target class so that their training gradient is that of patched others called the target.

    Minimises 1 - cos(g, sum_i grad L(x_i + d_i, target)), where g is the mean gradient of patched rows of
    other classes labelled as the target. The rows are those with the largest gradients; the net in which
    gradients are taken is trained anew on the rows as they are by then, at even distances in the course
    of the steps. The paper's trigger may lie anywhere and starts from one class; here it has one place
    and all other classes are sources, as in the judge's count of what it does.

    Args:
        workshop: training set of images (C, H, W), the recipe and a model of the adversary's own.
        budget: share of the rows of all classes that may be changed; at most the target's are.
        target: class whose rows are changed and that the trigger should call up, in 0 .. K - 1.
        patch: side of the square trigger, in pixels, at most a quarter of an image's.
        offset: distance of the trigger from the right and lower edge, in pixels.
        eps: largest change of a value of a training row, in units of x.
        sources: number of rows of other classes whose mean gradient is matched.
        step: length of the first steps, as a share of eps.
        steps: number of steps.
        retrainings: how often the net is trained anew.
        rng: source of sources, starts and nets.
        tick: told of each step.

    Returns:
        The changed rows with their own label, the trigger and the target.
    """
    clean = workshop.clean
    if len(clean.shape) != 3 or min(clean.shape[1:]) < 4 + offset:
        raise NotApplicable(f"a patch in a corner needs images. Got inputs of shape {clean.shape}")
    existing(target, clean.classes, "backdoor.sleeper_agent")
    trigger = Patch(min(patch, min(clean.shape[1:]) // 4), offset)
    mine, other = ((clean.y == target).nonzero().flatten(), (clean.y != target).nonzero().flatten())
    count = min(budget.rows(len(clean)), len(mine))
    if not count or not len(other):
        return Poison(mine[:0], clean.x[:0], clean.y[:0], trigger, target)
    # ties and starts aside, nothing else would differ between two draws
    mine = mine[torch.randperm(len(mine), generator=rng).to(mine.device)]
    shown = other[torch.randperm(len(other), generator=rng)[:sources].to(other.device)]
    marked, wish = trigger(clean.x[shown]), torch.full_like(shown, target)
    first = trainable(workshop.surrogates(1)[0])
    rows = mine[steepest_rows(first, clean.x[mine], clean.y[mine], count)]
    every = -(-steps // (retrainings + 1))
    current = [_pull(first, marked, wish)]

    def pulls(i: int, x: Tensor) -> list[Pull]:
        nonlocal current
        if i and i % every == 0 and i < steps:
            dirty = Poison(rows, x, clean.y[rows]).apply(clean)
            current = [_pull(trainable(workshop.recipe(dirty, rng=rng)), marked, wish)]
        return current

    x, _ = align(pulls, clean.x[rows], clean.y[rows], eps, step=step, steps=steps, rng=rng, tick=tick)
    return Poison(rows, x, clean.y[rows], trigger, target)


def _pull(model: Classifier, x: Tensor, y: Tensor) -> Pull:
    return Pull(model, weight_gradient(model, x, y))
