"""The direct gradient method: each poison climbs what a victim's next steps on it do to validation rows."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, assert_never

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
from casemate.ops.labels import flooding
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
Labels = Literal["each its own", "one for all"]


@poisoning(papers=(YANG,), known_as=("direct gradient method", "direct gradient poisoning"), version=2)
def direct_gradient(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    labels: Labels = "each its own",
    offset: Annotated[int, Ge(1)] = 1,
    rounds: Annotated[int, Ge(1)] = 5,
    steps: Annotated[int, Ge(0)] = 10,
    inner_steps: Annotated[int, Ge(1)] = 1,
    length: Annotated[float, Gt(0)] = 0.5,
    cap: Annotated[float, Gt(0)] = 10.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Move the poisons of one batch after another along the gradient through the victim's next steps.

    A victim is played through. The poisons of its next batch start as clean rows with a wrong label and
    move, in the box, to where the loss on validation rows is highest after `inner_steps` steps of training
    with them. The victim then takes those steps. When all poisons have had their turn, the next round moves
    each on, against the victim as it has become. Each image costs so many passes of its own: the generative
    method of the same paper is measured by this one.

    Args:
        workshop: what the adversary knows; its recipe gives the victim's net, which is a trained one if
            the victim learns online, its batches and its learning rates.
        budget: share of the rows that the adversary supplies.
        labels: "each its own" gives the class that follows a row's own by `offset`; "one for all" draws one class of
            which enough rows are not, for rows of all others.
        offset: classes from a row's own to the label that its poison gets, modulo K; only for "each its own".
        rounds: times that each poison has its turn; a victim that meets it as often, once an epoch, is played
            through to its end. A victim at its end begins again.
        steps: moves of each poison in a round.
        inner_steps: the victim's steps, all with the same poisons, that a move looks ahead.
        length: length of a move, as an l2 distance in units of x; a move that loses is taken back.
        cap: most that one validation row can add to the loss, in nats.
        rng: source of the rows, first weights and batches.
        tick: called after each batch of poisons with the validation loss.

    Returns:
        The moved rows with their wrong labels.

    Raises:
        NotApplicable: fewer than two classes, or an `offset` that leads back to the own class.
    """
    clean = workshop.clean
    if clean.classes < 2 or offset % clean.classes == 0:
        raise NotApplicable(f"an offset of {offset} leads to no other of {clean.classes} classes")
    rows, given = _begin(clean, budget.rows(len(clean)), labels, offset, rng)
    poison = clean.x[rows].float()
    if not len(rows):
        return Poison(rows, clean.x[rows], given)
    keep = torch.ones_like(clean.y, dtype=torch.bool)
    keep[rows] = False
    learner = untrained(workshop.recipe, poison, rng)
    victim = Rehearsal(learner, workshop.recipe, len(clean))
    rest = Samples(clean.x[keep].float(), clean.y[keep], clean.classes)
    mixture = Mixture(rest, len(rows) / len(clean), workshop.recipe.batch)
    stage = victim.begin()
    # the paper moves each poison once; a victim that meets it again has changed in the meantime
    groups = (
        group
        for _ in range(rounds)
        for group in torch.randperm(len(rows), generator=rng).to(rows.device).split(mixture.poisons)
    )
    turns = rounds * -(-len(rows) // mixture.poisons)
    for done, group in enumerate(groups):
        seen = torch.randint(len(workshop.held_out), (REWARDED,), generator=rng).to(rows.device)
        valid, seed = workshop.held_out[seen], int(torch.randint(2**62, (), generator=rng))
        ahead = partial(_ahead, victim, stage, mixture, given[group], valid, cap, inner_steps, seed)
        poison[group], value = _climb(ahead, poison[group], steps, length)
        stage = ahead(poison[group])[0]
        if victim.over(stage):
            stage = victim.begin()
        tick(done + 1, turns, {"loss": value})
    return Poison(rows, poison.to(clean.x.dtype), given)


def _begin(clean: Samples, most: int, labels: Labels, offset: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw the rows to begin from, (M,) with M <= `most`, and their wrong labels (M,)."""
    order = torch.randperm(len(clean), generator=rng).to(clean.y.device)
    match labels:
        case "each its own":
            rows = order[:most]
            return rows, (clean.y[rows] + offset) % clean.classes
        case "one for all":
            named = flooding(clean.y, clean.classes, most, rng)
            rows = order[clean.y[order] != named][:most]
            return rows, torch.full_like(rows, named)
    assert_never(labels)


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
