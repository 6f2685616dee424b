"""Adversarial examples as poisons: every training row carries the features of another class."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, poisoning
from casemate.core.target import Classifier
from casemate.core.threat import Become, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from casemate.ops.gradients import value_and_grad

FOWL = Paper(
    "Adversarial examples make strong poisons",
    "Fowl, Goldblum, Chiang, Geiping, Czaja, Goldstein",
    2021,
    "https://arxiv.org/abs/2106.10807",
)
CHUNK = 500  # rows at a time


@poisoning(
    papers=(FOWL,),
    known_as=(
        "adversarial poisoning",
        "error-maximising noise",
        "error-maximizing poisoning",
        "adversarial poisons",
    ),
)
def error_maximising(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    eps: Annotated[float, Gt(0), Le(1)] = 8 / 255,
    offset: Annotated[int, Ge(0)] = 1,
    steps: Annotated[int, Ge(1)] = 50,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Move training rows to where a model trained on clean ones sees the next class, and keep their labels.

    What is trained on them learns that the features of a class mean the class before it, and errs on
    clean inputs. Projected gradient descent within linf `eps` towards class y + `offset`, by a model of
    the adversary's own. It takes all or most of the rows to work: as few as a tenth of clean ones are
    enough to learn from.

    Args:
        workshop: what the adversary knows; the first of its surrogates is attacked.
        budget: share of the rows that may change.
        eps: largest change of a value, in units of x.
        offset: classes from a row's own to the one it is moved to, modulo K; 0 means away from its own.
        steps: steps of sign gradient, each 2.5 * eps / steps long.
        rng: source of the rows and of their random starts.
        tick: called after each chunk of rows with the share that reached their class.

    Returns:
        The moved rows, with their labels as they were.

    Raises:
        NotApplicable: fewer than two classes, or an `offset` that leads back to the own class.
    """
    clean = workshop.clean
    if clean.classes < 2 or (offset > 0 and offset % clean.classes == 0):
        raise NotApplicable(f"an offset of {offset} leads to no other of {clean.classes} classes")
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    if not len(rows):
        return Poison(rows, clean.x[rows], clean.y[rows])
    model, moved = workshop.surrogates(1)[0], []
    parts = rows.split(CHUNK)
    for done, part in enumerate(parts):
        x, y = clean.x[part], clean.y[part]
        goal = Become((y + offset) % clean.classes) if offset else Misclassify(y)
        start = (2 * torch.rand(x.shape, generator=rng).to(x) - 1) * eps
        moved.append(_descended(model, x, start, goal, eps, steps))
        reached = goal.reached(model.predict(moved[-1]))
        tick(done + 1, len(parts), {"reached": float(reached.double().mean())})
    return Poison(rows, torch.cat(moved), clean.y[rows])


def _descended(
    model: Classifier, x: Tensor, start: Tensor, goal: Become | Misclassify, eps: float, steps: int
) -> Tensor:
    """Follow the sign of the gradient, in the ball and the box."""
    x_adv = (x + start).clamp(0, 1)
    for _ in range(steps):
        # the direction of cross-entropy, as in the paper, and never saturated
        _, grad = value_and_grad(lambda z: goal.loss(model.logits(z)), x_adv)
        x_adv = x_adv + 2.5 * eps / steps * grad.sign()
        x_adv = torch.maximum(torch.minimum(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv
