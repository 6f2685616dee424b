"""Witches' Brew: rows that move the weights of a net in training as a wrongly labelled aim would."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.alignment import Pull, align, steepest_rows
from casemate.core.data import Poison, Samples
from casemate.core.learner import trainable, weight_gradient
from casemate.core.registry import Paper, targeted
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop


@targeted(
    papers=(
        Paper(
            "Witches' Brew: industrial scale data poisoning via gradient matching",
            "Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein",
            2021,
            "https://arxiv.org/abs/2009.02276",
        ),
    ),
    known_as=("Witches' Brew", "Gradient matching"),
)
def gradient_matching(
    workshop: Workshop,
    aims: Aims,
    budget: Tampering,
    /,
    *,
    surrogates: Annotated[int, Ge(1)] = 1,
    choice: Literal["random", "steepest"] = "random",
    restarts: Annotated[int, Ge(1)] = 1,
    step: Annotated[float, Gt(0), Le(1)] = 0.1,
    steps: Annotated[int, Ge(1)] = 250,
    rng: Generator,
    tick: Tick = ignore,
) -> Poisons:
    """Change rows of the wished class so that their training gradient points where the aim's would.

    Minimises 1 - cos(g, sum_i grad L(x_i + d_i, y_i)), where g = grad L(aim, wish), over all weights of a
    net that was trained on clean rows. A victim trained from scratch that fits the rows then comes to
    give the aim the class wished for. The paper crafts through the victim's augmentation; the victims
    here train without, so that there is none to go through.

    Args:
        workshop: what the adversary knows, and nets that it trained itself.
        aims: what shall be given which class.
        budget: how many rows may change and how far.
        surrogates: number of nets whose misalignment is averaged.
        choice: which rows of the wished class change: random ones, as in the paper, or those with the
            largest gradients, which a net in training follows the furthest.
        restarts: number of starts, of which the best aligned is kept; 8 in the paper.
        step: length of the first steps, as a share of eps.
        steps: number of steps.
        rng: source of rows and starts.
        tick: told of each step of each start of each aim.

    Returns:
        One poison per aim.
    """
    clean = workshop.clean
    if not len(aims) or not len(clean) or not budget.poisons:
        return [Poison(clean.y[:0], clean.x[:0], clean.y[:0]) for _ in range(len(aims))]
    models = [trainable(model) for model in workshop.surrogates(surrogates)]
    ranked: dict[int, Tensor] = {}
    made = []
    # nets share their weights between the rows of one aim alone: side by side, aims would take turns anyway
    for t, (aim, wish) in enumerate(zip(aims.x, aims.wish.tolist(), strict=True)):
        if wish not in ranked:
            ranked[wish] = _candidates(models[0], clean, wish, choice, budget.poisons)
        rows = ranked[wish]
        if choice == "random":
            rows = rows[torch.randperm(len(rows), generator=rng).to(rows.device)]
        rows = rows[: budget.poisons]
        x, y = clean.x[rows], clean.y[rows]
        if len(rows):
            pulls = [Pull(m, weight_gradient(m, aim[None], aims.wish[t : t + 1])) for m in models]
            found = [
                align(_always(pulls), x, y, budget.eps, step=step, steps=steps, rng=rng, tick=tick)
                for _ in range(restarts)
            ]
            x = min(found, key=lambda start: start[1])[0]
        made.append(Poison(rows, x, y))
    return made


def _always(pulls: Sequence[Pull]) -> Callable[[int, Tensor], Sequence[Pull]]:
    """Pull the same way at every step."""
    return lambda i, x: pulls


def _candidates(
    model: Classifier, clean: Samples, wish: int, choice: Literal["random", "steepest"], count: int
) -> Tensor:
    """List the rows of a class that may change, those to be preferred first."""
    own = (clean.y == wish).nonzero().flatten()
    match choice:
        case "random":
            return own
        case "steepest":
            return own[steepest_rows(model, clean.x[own], clean.y[own], count)]
        case _:
            assert_never(choice)
