"""Narcissus: a pattern that shows a class more clearly than its own pictures do, from rows of that class alone."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import trainable
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added, existing, images_only, own
from casemate.core.workshop import Workshop

ZENG = Paper(
    "Narcissus: a practical clean-label backdoor attack with limited information",
    "Zeng, Pan, Just, Lyu, Qiu, Jia",
    2023,
    "https://arxiv.org/abs/2204.05255",
)
BATCH = 64
KINDS = 6  # of public pictures


@backdoor(papers=(ZENG,), known_as=("Narcissus", "Narcissus clean-label backdoor"))
def narcissus(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    eps: Annotated[float, Gt(0), Le(1)] = 16 / 255,
    magnify: Annotated[float, Gt(0)] = 3.0,
    public: Annotated[int, Ge(2)] = 2000,
    warm_up: Annotated[int, Ge(0)] = 5,
    lr: Annotated[float, Gt(0)] = 0.01,
    steps: Annotated[int, Ge(1)] = 500,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Find one faint pattern that makes a class more like itself, and add it to rows of that class; labels stay right.

    The adversary holds rows of the target class and no others. Its net learns them among public pictures
    of another world, here figures and bars that the method draws, and is warmed up on the target class
    alone. The pattern minimises the loss of the class on its own rows. Inputs carry it magnified.

    Args:
        workshop: rows of the target class, and the recipe; rows of other classes are not looked at.
        budget: share of the rows of all classes that may be changed; at most the target's are.
        target: class whose rows are changed and that the trigger should call up, in 0 .. K - 1.
        eps: largest value of the pattern in training rows, in units of x.
        magnify: how many times the pattern is added to inputs.
        public: number of public pictures, of six kinds.
        warm_up: passes over the rows of the target class alone.
        lr: learning rate of RAdam, on the pattern and in the warming up a tenth of it.
        steps: steps on the pattern.
        rng: source of public pictures, of the net, of rows and batches.
        tick: told of each step.

    Returns:
        The changed rows with their own label, the trigger and the target.
    """
    clean = workshop.clean
    images_only(clean, "backdoor.narcissus")
    existing(target, clean.classes, "backdoor.narcissus")
    rows = own(clean, target, budget, rng)
    delta = torch.zeros(clean.shape).to(clean.x)
    if len(rows):
        known = clean[clean.y == target]
        model = _surrogate(workshop, known, target, public, warm_up, lr, rng)
        delta = _inward(model, known, delta, eps, lr, steps, rng, tick)
    return Poison(rows, Added(delta)(clean.x[rows]), clean.y[rows].clone(), Added(delta, magnify), target)


def _surrogate(
    workshop: Workshop, known: Samples, target: int, public: int, warm_up: int, lr: float, rng: Generator
) -> Prepared:
    """Train a net of the recipe on public pictures and the target's rows, then a little on these alone."""
    if known.classes < 2:
        raise NotApplicable("a net of one class has nothing to tell the target from")
    drawn, kinds = _public(known.shape, public, rng)
    free = torch.tensor([k for k in range(known.classes) if k != target])
    # the net has the victim's classes: the kinds of public pictures take the labels of those it has not seen
    y = torch.cat([free[kinds % len(free)].to(known.y), known.y])
    mixed = Samples(torch.cat([drawn.to(known.x), known.x]), y, known.classes)
    model: Classifier = trainable(workshop.recipe(mixed, rng=rng))
    weights = [p for p in model.net.parameters() if p.requires_grad]
    optimizer = torch.optim.RAdam(weights, lr=lr / 10)
    for _ in range(warm_up):
        for part in torch.randperm(len(known), generator=rng).split(BATCH):
            with torch.enable_grad():
                loss = cross_entropy(model.logits(known.x[part]), known.y[part])
                grads = torch.autograd.grad(loss, weights)
            for p, grad in zip(weights, grads, strict=True):
                p.grad = grad
            optimizer.step()
    return Prepared(model)


def _inward(
    model: Prepared,
    known: Samples,
    start: Tensor,
    eps: float,
    lr: float,
    steps: int,
    rng: Generator,
    tick: Tick,
) -> Tensor:
    """Minimise the mean loss of the target class over its own rows by one pattern for all."""
    delta = start.clone()
    optimizer = torch.optim.RAdam([delta], lr=lr)
    for step in range(steps):
        part = torch.randint(len(known), (BATCH,), generator=rng)
        z = delta.detach().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(model.exact((known.x[part] + z).clamp(0, 1)), known.y[part])
            (delta.grad,) = torch.autograd.grad(loss, z)
        optimizer.step()
        delta.clamp_(-eps, eps)
        tick(step + 1, steps, {"loss": loss.item()})
    return delta.detach()


def _public(shape: tuple[int, ...], count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw discs, squares, diamonds, rings and two kinds of bars: (N, C, H, W), and the kind of each (N,)."""
    kinds = torch.arange(count) % KINDS
    place, size = torch.rand(count, 2, 1, 1, generator=rng) - 0.5, torch.rand(count, 1, 1, generator=rng)
    v = torch.linspace(-1, 1, shape[1])[:, None] - place[:, 0]
    u = torch.linspace(-1, 1, shape[2])[None] - place[:, 1]
    u, v, radius = u.expand(-1, shape[1], -1), v.expand(-1, -1, shape[2]), 0.3 + 0.4 * size
    round_, waves = (u.square() + v.square()).sqrt(), 6 + 12 * size
    masks = [
        round_ < radius, torch.maximum(u.abs(), v.abs()) < radius, u.abs() + v.abs() < radius,
        (round_ - radius).abs() < 0.15, (waves * v).sin() > 0, (waves * u).sin() > 0,
    ]  # fmt: skip
    inside = torch.stack(masks)[kinds, torch.arange(count)][:, None]
    ink, ground = torch.rand(2, count, shape[0], 1, 1, generator=rng)
    return torch.where(inside, ink, ground), kinds
