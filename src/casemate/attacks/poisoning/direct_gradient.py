"""The direct gradient method: each poison climbs what a victim's next steps on it do to validation rows."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import untrained
from casemate.core.registry import Paper, poisoning
from casemate.core.rehearsal import Mixture, Rehearsal, Stage
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from casemate.ops.norms import steepest
from casemate.ops.rng import generator

YANG = Paper(
    "Generative poisoning attack method against neural networks",
    "Yang, Wu, Li, Chen",
    2017,
    "https://arxiv.org/abs/1703.01340",
)
REWARDED = 128  # validation rows that the loss is measured on
Ahead = Callable[[Tensor], tuple[Stage, Tensor]]


@poisoning(papers=(YANG,), known_as=("direct gradient method", "direct gradient poisoning"))
def direct_gradient(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    offset: Annotated[int, Ge(1)] = 1,
    steps: Annotated[int, Ge(0)] = 20,
    inner_steps: Annotated[int, Ge(1)] = 1,
    length: Annotated[float, Gt(0)] = 0.5,
    cap: Annotated[float, Gt(0)] = 10.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Move the poisons of one batch after another along the gradient through the victim's next steps.

    A victim is played through. The poisons of its next batch start as clean rows with a wrong label and
    move, in the box, to where the loss on validation rows is highest after `inner_steps` steps of training
    with them. The victim then takes those steps. Each image costs so many passes of its own: the generative
    method of the same paper is measured by this one.

    Args:
        workshop: what the adversary knows; its recipe gives the victim's net, which is a trained one if
            the victim learns online, its batches and its learning rates.
        budget: share of the rows that the adversary supplies.
        offset: classes from a row's own to the label that its poison gets, modulo K.
        steps: moves of each poison.
        inner_steps: the victim's steps, all with the same poisons, that a move looks ahead.
        length: length of a move, as an l2 distance in units of x; a move that loses is taken back.
        cap: most that one validation row can add to the loss, in nats.
        rng: source of the rows, first weights and batches.
        tick: called after each batch of poisons with the validation loss.

    Returns:
        The moved rows, each with the label that follows its own.

    Raises:
        NotApplicable: fewer than two classes, or an `offset` that leads back to the own class.
    """
    clean = workshop.clean
    if clean.classes < 2 or offset % clean.classes == 0:
        raise NotApplicable(f"an offset of {offset} leads to no other of {clean.classes} classes")
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    labels = (clean.y[rows] + offset) % clean.classes
    poison = clean.x[rows].float()
    if not len(rows):
        return Poison(rows, clean.x[rows], labels)
    keep = torch.ones_like(clean.y, dtype=torch.bool)
    keep[rows] = False
    learner = untrained(workshop.recipe, poison, rng)
    victim = Rehearsal(learner, workshop.recipe, len(clean))
    rest = Samples(clean.x[keep].float(), clean.y[keep], clean.classes)
    mixture = Mixture(rest, len(rows) / len(clean), workshop.recipe.batch)
    stage = victim.begin()
    groups = torch.arange(len(rows), device=rows.device).split(mixture.poisons)
    for done, group in enumerate(groups):
        seen = torch.randint(len(workshop.held_out), (REWARDED,), generator=rng).to(rows.device)
        valid, seed = workshop.held_out[seen], int(torch.randint(2**62, (), generator=rng))
        ahead = partial(_ahead, victim, stage, mixture, labels[group], valid, cap, inner_steps, seed)
        poison[group], value = _climb(ahead, poison[group], steps, length)
        stage = ahead(poison[group])[0]
        if victim.over(stage):
            stage = victim.begin()
        tick(done + 1, len(groups), {"loss": value})
    return Poison(rows, poison.to(clean.x.dtype), labels)


def _ahead(
    victim: Rehearsal, stage: Stage, mixture: Mixture, labels: Tensor, valid: Samples, cap: float,
    steps: int, seed: int, x: Tensor,
) -> tuple[Stage, Tensor]:  # fmt: skip
    """Let the victim train on poisons x (M, *S), always with the same clean rows, and measure its loss."""
    of, rng = victim.learner, generator(seed)
    loss = partial(mixture.loss, of, x=x, y=labels, rng=rng)
    after = victim.advance(stage, [loss] * steps)
    logits = of.logits(after.weights, valid.x.float())
    losses = nn.functional.cross_entropy(logits, valid.y, reduction="none")
    return after, losses.clamp(max=cap).mean()


def _climb(ahead: Ahead, x: Tensor, steps: int, length: float) -> tuple[Tensor, float]:
    """Move inputs (M, *S) up the gradient, each by `length`, halved where that gains nothing."""
    # the paper takes finite differences in every pixel; differentiating twice gives the same in two passes
    best, value, along = x, -float("inf"), torch.zeros_like(x)
    for _ in range(steps + 1):
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            found = ahead(z)[1]
            (grad,) = torch.autograd.grad(found, z)
        if float(found.detach()) > value:
            best, value, along = x, float(found.detach()), steepest(grad, "l2")
        else:
            length /= 2
        x = (best + length * along).clamp(0, 1)
    return best, value
