"""Gradient canceling: choose bad weights first, then poisons under which training stays there."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.learner import (
    Learner,
    Weights,
    descend,
    product,
    row_products,
    row_sizes,
    slope,
    untrained,
)
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop

LU = Paper(
    "Exploring the limits of model-targeted indiscriminate data poisoning attacks",
    "Lu, Kamath, Yu",
    2023,
    "https://arxiv.org/abs/2303.03592",
)
SUN = Paper(
    "Exploring the vulnerability of deep neural networks: a study of parameter corruption",
    "Sun, Zhang, Ren, Luo, Li",
    2021,
    "https://arxiv.org/abs/2006.05620",
)
PICKS = 500  # starts sought one after another; of more poisons several are picked at a time


@poisoning(
    papers=(LU, SUN), known_as=("Gradient Canceling", "gradient cancelling", "GC poisoning"), version=3
)
def gradient_canceling(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    radii: tuple[Annotated[float, Gt(0)], ...] = (0.03, 0.05, 0.07, 0.1, 0.14),
    corruption_steps: Annotated[int, Ge(1)] = 50,
    pool: Annotated[int, Ge(1)] = 2000,
    steps: Annotated[int, Ge(1)] = 300,
    lr: Annotated[float, Gt(0)] = 0.05,
    inner_steps: Annotated[int, Ge(1)] = 300,
    rate: Annotated[float, Gt(0)] = 0.3,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Corrupt the weights of a trained model, then find poisons whose gradient there undoes that of clean rows.

    The weights w* climb the validation loss within a radius around those that a learner reached (gradient
    parameter corruption). Poisons then minimise |(1 - r) grad L(clean; w*) + r grad L(poison; w*)|^2 / 2 for
    a share r of poison: where it is zero, w* is a stationary point of training. How far w* can be, so few
    poisons being few, is not known beforehand: of several radii, that one is kept whose poison does most
    to a learner trained anew. Poisons stay in the box, which the paper's need not, and start as clean rows with
    wrong labels that go some way to cancelling the gradient. They replace random rows.

    Args:
        workshop: what the adversary knows; its recipe gives the net that is trained in the head.
        budget: share of the rows that the adversary supplies.
        radii: distances of w* that are tried, as shares of the l2 size of the weights.
        corruption_steps: steps that climb to w*.
        pool: clean rows with wrong labels, drawn at random, among which the starts are sought; at least as many
            as there are poisons are drawn, and no pair of row and label twice as long as there are others.
        steps: steps of Adam on the poisons.
        lr: its learning rate, in units of x.
        inner_steps: steps of full-batch descent that stand for training.
        rate: length of these steps, times the gradient.
        rng: source of the rows, starts, labels and first weights.
        tick: called after each radius with what is left of the gradient and the validation loss.

    Returns:
        The poison points in place of random rows.

    Raises:
        NotApplicable: fewer than two classes.
        UsageError: training in the head diverges, whichever the radius.
    """
    clean, valid = workshop.clean, workshop.held_out
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    if not len(rows):
        return Poison(rows, clean.x[rows], clean.y[rows])
    keep = torch.ones_like(clean.y, dtype=torch.bool)
    keep[rows] = False
    if clean.classes < 2:
        raise NotApplicable("poisoning.gradient_canceling needs two or more classes")
    if not bool(keep.any()):
        keep[:] = True  # nothing is left to be cancelled, and the rows replaced stand in for it
    rest = Samples(clean.x[keep].double(), clean.y[keep], clean.classes)
    learner = untrained(workshop.recipe, rest.x, rng)
    trained = descend(learner, learner.start(), rest.x, rest.y, rate, inner_steps)
    drawn = _wrong(rest, max(pool, len(rows)), rng)
    best, labels, most = rest.x[:0], rest.y[:0], -float("inf")
    for done, radius in enumerate(radii):
        bad = _corrupted(learner, trained, valid, radius, corruption_steps)
        start, given = _starts(learner, bad, rest, drawn, len(rows))
        x, left = _cancelling(learner, bad, rest, start, given, steps, lr)
        both = torch.cat([rest.x, x]), torch.cat([rest.y, given])
        loss = _loss(learner, descend(learner, learner.start(), *both, rate, inner_steps), valid)
        if most < loss < float("inf"):
            best, labels, most = x, given, loss
        tick(done + 1, len(radii), {"gradient": left, "loss": loss})
    if most == -float("inf"):
        raise UsageError(f"rate: training in the head diverged; expected a lower one, got {rate:g}")
    return Poison(rows, best.to(clean.x.dtype), labels)


def _loss(learner: Learner, weights: Weights, valid: Samples) -> float:
    with torch.no_grad():
        return float(learner.loss(weights, valid.x.double(), valid.y))


def _corrupted(learner: Learner, trained: Weights, valid: Samples, radius: float, steps: int) -> Weights:
    """Climb the validation loss in the ball of `radius` times the size of the trained weights."""
    x = valid.x.double()
    reach = radius * float(product(trained, trained)) ** 0.5
    weights = trained
    for _ in range(steps):
        up = slope(learner, weights, x, valid.y)
        size = float(product(up, up)) ** 0.5
        if size == 0:
            break
        moved = tuple(torch._foreach_add(weights, up, alpha=2.5 * reach / steps / size))
        away = tuple(torch._foreach_sub(moved, trained))
        far = float(product(away, away)) ** 0.5
        weights = tuple(torch._foreach_add(trained, away, alpha=min(1.0, reach / far))) if far else moved
    return weights


def _wrong(rest: Samples, count: int, rng: Generator) -> Samples:
    """Draw `count` pairs of a row and a wrong label, or all that there are; no row again before all others."""
    others = rest.classes - 1
    at = torch.arange(min(count, len(rest) * others))
    order = torch.randperm(len(rest), generator=rng)
    first = torch.randint(others, (len(rest),), generator=rng)
    turn, place = at // len(rest), at % len(rest)
    shift = (1 + (first[place] + turn) % others).to(rest.y.device)
    rows = order[place].to(rest.y.device)
    return Samples(rest.x[rows], (rest.y[rows] + shift) % rest.classes, rest.classes)


def _starts(
    learner: Learner, bad: Weights, rest: Samples, drawn: Samples, count: int
) -> tuple[Tensor, Tensor]:
    """Pick poisons (M, *S) and labels (M,) one after another, each the one that cancels most of what is left.

    The paper starts from clean rows at random: from there poisons that may not leave the box hardly cancel
    anything, because each keeps the label that it has. No row is picked with the same label again before all of the
    pool are: equal poisons would have equal gradients and never separate.
    """
    n = len(rest)
    share = 1 / (n + count)
    left: Weights = tuple(n * share * g for g in slope(learner, bad, rest.x, rest.y))
    sizes = share**2 * row_sizes(learner, bad, drawn.x, drawn.y)
    together = -(-count // PICKS)
    chosen: list[int] = []
    while len(chosen) < count:
        # |left + each|^2 less |left|^2
        scores = sizes + 2 * share * row_products(learner, bad, drawn.x, drawn.y, left)
        used = len(drawn) * (len(chosen) // len(drawn))
        scores[chosen[used:]] = float("inf")
        most = min(together, count - len(chosen), len(drawn) + used - len(chosen))
        picked = scores.topk(most, largest=False).indices
        pull = slope(learner, bad, drawn.x[picked], drawn.y[picked])
        left = tuple(torch._foreach_add(left, pull, alpha=share * most))
        chosen += picked.tolist()
    return drawn.x[chosen], drawn.y[chosen]


def _cancelling(
    learner: Learner, bad: Weights, rest: Samples, start: Tensor, labels: Tensor, steps: int, lr: float
) -> tuple[Tensor, float]:
    """Move inputs (M, *S) in the box until the gradient at the bad weights is as small as it gets."""
    n, m = len(rest), len(start)
    clean = [n / (n + m) * g for g in slope(learner, bad, rest.x, rest.y)]
    at = [w.detach().requires_grad_() for w in bad]
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=lr)
    best, least = start, float("inf")
    for _ in range(steps + 1):
        with torch.enable_grad():
            own = torch.autograd.grad(learner.loss(at, x, labels), at, create_graph=True)
            left = [c + m / (n + m) * g for c, g in zip(clean, own, strict=True)]
            value = product(left, left) / 2
            (x.grad,) = torch.autograd.grad(value, x)
        if float(value.detach()) < least:
            best, least = x.detach().clone(), float(value.detach())
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return best, (2 * least) ** 0.5
