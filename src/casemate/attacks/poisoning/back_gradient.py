"""Back-gradient optimisation: poison points that climb the validation loss of the trained model."""

from dataclasses import replace
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.hypergradients import Aim, Mode, Training, hypergradient
from casemate.core.learner import Learner, Weights, untrained
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop

MUNOZ = Paper(
    "Towards poisoning of deep learning algorithms with back-gradient optimization",
    "Muñoz-González, Biggio, Demontis, Paudice, Wongrassamee, Lupu, Roli",
    2017,
    "https://arxiv.org/abs/1708.08689",
)
Labels = Literal["each its own", "one for all"]
Measured = Literal["validation", "all known"]
GROUPS = 20  # in which many points are added, so that the time does not grow with their number squared
HALVINGS = 5  # of a step that gains nothing, before a point is left where it is; one that gains is doubled


@poisoning(papers=(MUNOZ,), known_as=("Back-gradient optimization", "back-gradient poisoning"), version=3)
def back_gradient(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    goal: Literal["generic", "specific"] = "generic",
    source: Annotated[int, Ge(0)] = 0,
    wish: Annotated[int, Ge(0)] = 1,
    mode: Mode = "unrolled",
    inner_steps: Annotated[int, Ge(1)] = 100,
    rate: Annotated[float, Gt(0)] = 0.1,
    outer_steps: Annotated[int, Ge(0)] = 20,
    length: Annotated[float, Gt(0)] = 1.0,
    together: Annotated[int, Ge(1)] | None = None,
    attempts: Annotated[int, Ge(1)] = 1,
    labels: Labels = "each its own",
    refine_steps: Annotated[int, Ge(0)] = 20,
    measured: Measured = "validation",
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Move poison points along the gradient of what a model trained on them does to validation rows.

    The gradient goes through the whole descent of a learner that the adversary trains. Points are added
    one after another: each starts as a validation row with a wrong label and moves as long as that
    raises the loss ("generic") or makes rows of class `source` look like `wish` and leaves all others
    alone ("specific"). A step that gains nothing is halved, so that no point ends worse than it began.
    Where that leads depends on starts and labels, so that several attempts may be made, of which the one
    that did most goes on. The poison replaces random rows: the adversary supplies that share of the set.

    Args:
        workshop: what the adversary knows; its recipe gives the net that is trained in the head.
        budget: share of the rows that the adversary supplies.
        goal: "generic" for any error, "specific" for the one that `source` and `wish` name.
        source: class of the inputs to be misread, in 0 .. K - 1; only for "specific".
        wish: class that they shall be given, in 0 .. K - 1; only for "specific".
        mode: "unrolled" is exact and keeps all steps in memory; "reverse" is the paper's walk back from
            the trained weights, without memory and slower.
        inner_steps: steps of full-batch descent that stand for training.
        rate: length of these steps, times the gradient.
        outer_steps: most steps of each point.
        length: length of the first step of the points that move together, as an l2 distance in units of x.
        together: points that are added at a time, 1 in the paper; None means that up to 20 are added singly,
            and more of them in at most 20 groups.
        attempts: sets of points that are begun and moved, each from starts of its own; the best one is kept.
        labels: "each its own" draws any wrong label for each point, which is the paper's way; "one for all"
            gives all points of an attempt the same, each class in turn, so that a single attempt always has
            the first. Only for "generic".
        refine_steps: most steps of all points of the best attempt at once; 0 is the paper's way.
        measured: rows on which the loss is to rise: "validation", which is the paper's way, or "all known" for
            the training rows that stay as well, so that fewer other rows escape.
        rng: source of the rows, starts, labels and first weights.
        tick: called after each group of points with the loss that the adversary climbs.

    Returns:
        The poison points in place of random rows.

    Raises:
        NotApplicable: fewer than two classes, or one of the classes named is not there.
        UsageError: "one for all" with a specific goal, whose label is `wish`; or training in the head diverges
            in all attempts.
    """
    if goal == "specific" and labels == "one for all":
        raise UsageError("labels: expected 'each its own' with goal 'specific', got 'one for all'")
    clean, valid = workshop.clean, workshop.held_out
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    if not len(rows):
        return Poison(rows, clean.x[rows], clean.y[rows])
    able = _able(valid, goal, source, wish)
    keep = torch.ones_like(clean.y, dtype=torch.bool)
    keep[rows] = False
    # without float64 the walk back loses its way
    x, y = clean.x[keep].double(), clean.y[keep]
    learner = untrained(workshop.recipe, x, rng)
    aim = _aim(learner, _measured(workshop, keep, measured), goal, source, wish)
    size = together or -(-len(rows) // GROUPS)
    best, given, most = clean.x[rows].double(), clean.y[rows], -float("inf")
    for attempt in range(attempts):
        named = _label(attempt, valid, goal, wish, labels)
        begun = Training(learner, learner.start(), x, y, y[:0], rate, inner_steps)
        poison, chosen = x[:0], y[:0]
        for group in torch.arange(len(rows)).split(size):
            free, own = _start(valid, able, named, len(group), rng)
            free, value = _climb(replace(begun, given=own), free, aim, mode, outer_steps, length)
            begun = replace(begun, x=torch.cat([begun.x, free]), y=torch.cat([begun.y, own]))
            poison, chosen = torch.cat([poison, free]), torch.cat([chosen, own])
            tick(attempt * len(rows) + len(poison), attempts * len(rows), {"loss": value})
        if most < value < float("inf"):
            best, given, most = poison, chosen, value
    if most == -float("inf"):
        raise UsageError(f"rate: training in the head diverged; expected a lower one, got {rate:g}")
    whole = Training(learner, learner.start(), x, y, given, rate, inner_steps)
    poison, _ = _climb(whole, best, aim, mode, refine_steps, length * len(rows) ** 0.5)
    return Poison(rows, poison.to(clean.x.dtype), given)


def _able(valid: Samples, goal: str, source: int, wish: int) -> Tensor:
    """List the validation rows to begin from."""
    if valid.classes < 2:
        raise NotApplicable("poisoning.back_gradient needs two or more classes")
    if goal == "specific" and (source == wish or wish >= valid.classes):
        raise NotApplicable(f"there is no class {wish} other than {source} to wish for")
    able = (valid.y == source) if goal == "specific" else torch.ones_like(valid.y, dtype=torch.bool)
    if not bool(able.any()):
        raise NotApplicable("poisoning.back_gradient has no row to start from")
    return able.nonzero().flatten()


def _label(attempt: int, valid: Samples, goal: str, wish: int, labels: Labels) -> int | None:
    """Name the label that all points of an attempt get, if they get the same."""
    if goal == "specific":
        return wish
    match labels:
        case "one for all":
            # a class that has all the rows is a wrong label for none
            wrong = [k for k in range(valid.classes) if bool((valid.y != k).any())]
            return wrong[attempt % len(wrong)]
        case "each its own":
            return None
    assert_never(labels)


def _start(
    valid: Samples, able: Tensor, named: int | None, count: int, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Draw inputs (M, *S) and a wrong label for each: the one named, or any."""
    if named is not None:
        able = able[valid.y[able] != named]
    rows = able[torch.randint(len(able), (count,), generator=rng).to(able.device)]
    x = valid.x[rows].double()
    if named is not None:
        return x, torch.full_like(rows, named)
    shift = torch.randint(1, valid.classes, (count,), generator=rng).to(rows.device)
    return x, (valid.y[rows] + shift) % valid.classes


def _measured(workshop: Workshop, keep: Tensor, measured: Measured) -> Samples:
    """Take the rows on which the loss is to rise; `keep` (N,) are the training rows that stay."""
    match measured:
        case "validation":
            return workshop.held_out
        case "all known":
            stay, valid = workshop.clean[keep], workshop.validation or workshop.clean[slice(0)]
            return Samples(torch.cat([valid.x, stay.x]), torch.cat([valid.y, stay.y]), stay.classes)
    assert_never(measured)


def _aim(learner: Learner, rows: Samples, goal: str, source: int, wish: int) -> Aim:
    """Make the function of trained weights that is to rise."""
    x = rows.x.double()
    if goal == "generic":
        return lambda weights: learner.loss(weights, x, rows.y)
    wished = rows.y.where(rows.y != source, torch.full_like(rows.y, wish))
    return lambda weights: -learner.loss(weights, x, wished)


def _climb(
    training: Training, free: Tensor, aim: Aim, mode: Mode, steps: int, length: float
) -> tuple[Tensor, float]:
    """Follow the gradient in the box as long as that helps."""
    best = _value(aim, training.run(free))
    for _ in range(steps):
        _, grad = hypergradient(training, free, aim, mode)
        # what would leave the box takes no share of a step's length
        grad = grad.where(((free > 0) | (grad > 0)) & ((free < 1) | (grad < 0)), torch.zeros_like(grad))
        size = float(grad.norm())
        if not size > 0:
            break
        for _ in range(HALVINGS):
            moved = (free + length * grad / size).clamp(0, 1)
            value = _value(aim, training.run(moved))
            if best < value < float("inf"):
                free, best = moved, value
                length *= 2
                break
            length /= 2
        else:
            break
    return free, best


def _value(aim: Aim, weights: Weights) -> float:
    with torch.no_grad():
        return float(aim(weights))
