"""Poison Frogs: an image that looks like its class and has the features of the aim."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Generator, Tensor

from casemate.core.bases import nearest, spread
from casemate.core.data import Poison
from casemate.core.features import Halves, halves
from casemate.core.registry import Paper, targeted
from casemate.core.tampering import Tampering
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop

CHUNK = 500  # rows whose gradients are taken at a time
MEMORY = 40  # steps over whose mean the objective must not rise


@targeted(
    papers=(
        Paper(
            "Poison frogs! Targeted clean-label poisoning attacks on neural networks",
            "Shafahi, Huang, Najibi, Suciu, Studer, Dumitras, Goldstein",
            2018,
            "https://arxiv.org/abs/1804.00792",
        ),
    ),
    known_as=("Clean-label feature collision attack", "Poison Frogs", "Feature collision"),
    version=2,
)
def feature_collision(
    workshop: Workshop,
    aims: Aims,
    budget: Tampering,
    /,
    *,
    beta: Annotated[float, Ge(0)] = 0.25,
    watermark: Annotated[float, Ge(0), Lt(1)] = 0.0,
    step: Annotated[float, Gt(0), Le(1)] = 0.02,
    steps: Annotated[int, Ge(1)] = 400,
    bases: Annotated[int, Ge(1)] = 10,
    rng: Generator,
    tick: Tick = ignore,
) -> Poisons:
    """Move rows of the wished class until the extractor takes them for the aim, by forward-backward splitting.

    Minimises |phi(x) - phi(t)|^2 / |phi(b) - phi(t)|^2 + w |x - b|^2 over x, for the aim t and bases b, the
    rows of the wished class that are nearest to t in features. Forward: a gradient step on the first
    term; backward: x <- (x + l w b) / (1 + l w) for a step of length l. A row's step is halved when its
    objective exceeds the mean of the last 40; each row keeps its best. As in the authors' code, several
    bases are tried for each aim: those that come nearest to it are the poison.

    Args:
        workshop: what the adversary knows; the first of its surrogates has the extractor to collide in.
        aims: what shall be given which class.
        budget: how many rows may change and how far.
        beta: weight of likeness to the base; w is beta times (features / values)^2 per squared unit of x.
        watermark: share of the aim, in [0, 1), that is blended into each base at the start.
        step: length of the first step, mean over the values of a row, in units of x.
        steps: number of steps.
        bases: rows tried for each aim; never fewer than the budget lets change.
        rng: not used; the method draws nothing.
        tick: told of each step.

    Returns:
        One poison per aim.
    """
    clean = workshop.clean
    if not len(aims) or not len(clean) or not budget.poisons:
        return [Poison(clean.y[:0], clean.x[:0], clean.y[:0]) for _ in range(len(aims))]
    model = halves(workshop.surrogates(1)[0])
    with torch.no_grad():
        probes, known = model.known(aims.x), model.known(clean.x)
    chosen = nearest(clean, known, aims, probes, max(bases, budget.poisons))
    rows, owner = spread(chosen)
    origin, goal = clean.x[rows], probes[owner]
    low, high = (origin - budget.eps).clamp(min=0), (origin + budget.eps).clamp(max=1)
    base = torch.clamp((1 - watermark) * origin + watermark * aims.x[owner], low, high)
    # the paper's beta is for distances that are not divided by the first one
    far = (known[rows] - goal).square().sum(1)
    weight = beta * (known.shape[1] / base[0].numel()) ** 2 / far.where(far > 0, torch.ones_like(far))
    x, length = base.clone(), torch.zeros(len(rows), dtype=base.dtype, device=base.device)
    best, least = base.clone(), torch.full_like(length, torch.inf)
    before = torch.zeros(0, len(rows), dtype=base.dtype, device=base.device)
    for i in range(steps):
        apart, slope = _apart(model, x, goal, far)
        objective = apart + weight * (x - base).flatten(1).square().sum(1)
        better = objective < least
        best[better], least[better] = x[better], objective[better]
        if i == 0:
            size = slope.flatten(1).abs().mean(1)
            length = torch.where(size > 0, step / size.where(size > 0, torch.ones_like(size)), 0.0)
        if len(before) == MEMORY:
            length = torch.where(objective > before.mean(0), length / 2, length)
        before = torch.cat([before, objective[None]])[-MEMORY:]
        each = length.view(-1, *[1] * (x.dim() - 1))
        pull = each * weight.view_as(each)
        x = (x - each * slope + pull * base) / (1 + pull)
        # the paper has no hard bound on the change; the budget is one
        x = torch.clamp(x, low, high)
        tick(i + 1, steps, {"mean_distance": float(apart.mean())})
    left = (model.known(best) - goal).square().sum(1)
    closest = [_least(left, (owner == t).nonzero().flatten(), budget.poisons) for t in range(len(aims))]
    return [Poison(rows[own], best[own], clean.y[rows[own]]) for own in closest]


def _least(left: Tensor, own: Tensor, count: int) -> Tensor:
    """Choose the `count` entries of `own` (M,) with the least distance `left`, in the order that they had."""
    return own[left[own].argsort(stable=True)[:count].sort().values]


def _apart(model: Halves, x: Tensor, goal: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how far x is from its goal in features, relative to its base, (M,), and the gradient (M, *S)."""
    found, slopes = [], []
    scale = far.where(far > 0, torch.ones_like(far))
    for part, wanted, unit in zip(x.split(CHUNK), goal.split(CHUNK), scale.split(CHUNK), strict=True):
        z = part.detach().requires_grad_()
        with torch.enable_grad():
            apart = (model.features(z) - wanted).square().sum(1) / unit
            slopes.append(torch.autograd.grad(apart.sum(), z)[0])
        found.append(apart.detach())
    return torch.cat(found), torch.cat(slopes)
