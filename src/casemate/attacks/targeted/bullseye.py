"""Bullseye Polytope: rows of one class whose features have the aim as their mean, in several extractors."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator

from casemate.core.bases import nearest, shared_count, squares
from casemate.core.data import Poison
from casemate.core.features import halves
from casemate.core.registry import Paper, targeted
from casemate.core.tampering import Tampering
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop
from casemate.ops.rng import seeded


@targeted(
    papers=(
        Paper(
            "Bullseye Polytope: a scalable clean-label poisoning attack with improved transferability",
            "Aghakhani, Meng, Wang, Kruegel, Vigna",
            2021,
            "https://arxiv.org/abs/2005.00191",
        ),
    ),
    known_as=("Bullseye Polytope",),
)
def bullseye(
    workshop: Workshop,
    aims: Aims,
    budget: Tampering,
    /,
    *,
    surrogates: Annotated[int, Ge(1)] = 3,
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2,
    lr: Annotated[float, Gt(0)] = 0.01,
    steps: Annotated[int, Ge(1)] = 400,
    rng: Generator,
    tick: Tick = ignore,
) -> Poisons:
    """Put the mean of poisons of the wished class on the aim in feature space, far from the head's border.

    Minimises 1/2 sum_i |phi_i(t) - mean_j phi_i(x_j)|^2 / |phi_i(t)|^2 over the rows x: the convex
    polytope with its coefficients fixed to equal ones, which needs no inner problem and keeps the aim
    off the polytope's boundary. Dropout stays on, so that the poisons fit extractors unseen.

    Args:
        workshop: what the adversary knows and its extractors.
        aims: what shall be given which class.
        budget: how many rows may change and how far.
        surrogates: number of extractors.
        dropout: share of values dropped in the extractors while crafting, in [0, 1).
        lr: learning rate of Adam, in units of x per step.
        steps: number of steps.
        rng: source of the dropout.
        tick: told of each step.

    Returns:
        One poison per aim.
    """
    clean = workshop.clean
    count = shared_count(clean, aims, budget.poisons)
    if not len(aims) or not count:
        return [Poison(clean.y[:0], clean.x[:0], clean.y[:0]) for _ in range(len(aims))]
    own = workshop.surrogates(surrogates)
    models = [halves(model, dropout=dropout) for model in own]
    first = halves(own[0])
    rows = torch.stack(nearest(clean, first.known(clean.x), aims, first.known(aims.x), count))  # (T, M)
    base, many = clean.x[rows].flatten(0, 1), len(aims)
    low, high = (base - budget.eps).clamp(min=0), (base + budget.eps).clamp(max=1)
    x = base.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=lr)
    with seeded(int(torch.randint(2**62, (), generator=rng)), base.device), torch.enable_grad():
        for i in range(steps):
            loss = torch.zeros((), dtype=base.dtype, device=base.device)
            for model in models:
                corners = model.features(x).view(many, count, -1)
                with torch.no_grad():
                    wanted = model.features(aims.x)
                off = wanted - corners.mean(1)
                loss = loss + (off.square().sum(1) / squares(wanted)).sum() / (2 * len(models))
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            with torch.no_grad():
                x.copy_(torch.clamp(x, low, high))
            tick(i + 1, steps, {"loss": loss.item() / many})
    made = x.detach().view(many, count, *clean.shape)
    return [Poison(rows[t], made[t], clean.y[rows[t]]) for t in range(many)]
