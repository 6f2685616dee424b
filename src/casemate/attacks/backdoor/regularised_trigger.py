"""The invisible backdoor of Li et al. by a trigger whose norm is held down."""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget
from casemate.core.neurons import inner_layer, steerable, values
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added, existing, images_only, others
from casemate.core.workshop import Workshop

LI = Paper(
    "Invisible backdoor attacks on deep neural networks via steganography and regularization",
    "Li, Xue, Zhao, Zhu, Zhang",
    2020,
    "https://arxiv.org/abs/1909.02742",
)
BATCH = 64
GROWTH = 1.1  # of the weight of the norm, after each round that keeps the neurons excited
ROUND = 10  # steps


@backdoor(papers=(LI,), known_as=("regularised trigger backdoor", "trigger regularization"))
def regularised_trigger(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    norm: Literal["l2", "linf", "l0"] = "l2",
    size: Annotated[float, Gt(0)] = 1.0,
    neurons: Annotated[int, Ge(1)] = 2,
    value: Annotated[float, Gt(0)] = 10.0,
    steps: Annotated[int, Ge(1)] = 300,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Find a faint pattern that excites few neurons of a surrogate, add it, and label the rows as the target.

    Args:
        workshop: training set of images (C, H, W) and models of the adversary's own.
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        norm: what is held down: l2, the largest value, or the number of values.
        size: norm at which the search ends: of l2 and linf in units of x, of l0 a number of values.
        neurons: number of units that the pattern excites.
        value: what they are driven to, in multiples of their largest usual value.
        steps: steps of Adam on the pattern.
        rng: source of the rows and of the first pattern.
        tick: called now and then with the norm of the pattern.

    Returns:
        The marked rows with the target's label, the trigger and the target.
    """
    clean = workshop.clean
    images_only(clean, "backdoor.regularised_trigger")
    existing(target, clean.classes, "backdoor.regularised_trigger")
    rows = others(clean, target, budget, rng)
    delta = torch.zeros(clean.shape).to(clean.x)
    if len(rows):
        model = workshop.surrogates(1)[0]
        some = clean.x[torch.randperm(len(clean), generator=rng)[:BATCH]]
        start = torch.randn(clean.shape, generator=rng).to(clean.x)
        delta = _faint(model, some, start / 10, norm, size, neurons, value, steps, tick)
    trigger = Added(delta)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)


def _faint(
    model: Classifier, x: Tensor, start: Tensor, norm: Literal["l2", "linf", "l0"], size: float, neurons: int,
    value: float, steps: int, tick: Tick,
) -> Tensor:  # fmt: skip
    """Minimise (a - v)^2 + weight |delta|_p with a weight that grows, and cut what is left to the size."""
    inner = inner_layer(model)
    chosen = steerable(model, inner, x, neurons)
    with torch.no_grad():
        usual = values(model, inner, x)[:, chosen].amax(0)
    delta, weight = start.clone(), 1e-2
    optimizer = torch.optim.Adam([delta], lr=0.01)
    for step in range(steps):
        z = delta.detach().requires_grad_()
        with torch.enable_grad():
            said = values(model, inner, (x + z).clamp(0, 1))[:, chosen]
            missed = (said / usual - value).square().mean()
            (grad,) = torch.autograd.grad(missed + weight * _size(z, norm), z)
        delta.grad = grad
        optimizer.step()
        if step % ROUND == ROUND - 1 and float(_measured(delta, norm)) > size:
            weight *= GROWTH
        if step % 25 == 24 or step + 1 == steps:
            tick(step + 1, steps, {"norm": float(_measured(delta, norm))})
    return _cut(delta.detach(), norm, size)


def _size(delta: Tensor, norm: Literal["l2", "linf", "l0"]) -> Tensor:
    """Norm whose gradient is descended; l1 stands for l0, which has none."""
    match norm:
        case "l2":
            return delta.square().sum().add(1e-12).sqrt()
        case "linf":
            return delta.abs().amax()
        case "l0":
            return delta.abs().sum()


def _measured(delta: Tensor, norm: Literal["l2", "linf", "l0"]) -> Tensor:
    return (delta.abs() > 0.5 / 255).sum() if norm == "l0" else _size(delta, norm)


def _cut(delta: Tensor, norm: Literal["l2", "linf", "l0"], size: float) -> Tensor:
    """Bring a pattern to its size, whatever the weight achieved."""
    match norm:
        case "l2":
            return delta * (size / _size(delta, "l2").clamp(min=size))
        case "linf":
            return delta.clamp(-size, size)
        case "l0":
            least = delta.abs().flatten().topk(min(delta.numel(), max(1, int(size)))).values[-1]
            return torch.where(delta.abs() >= least, delta, 0.0)
