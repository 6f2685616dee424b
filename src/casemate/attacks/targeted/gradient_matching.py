"""Witches' Brew: rows that move the weights of a net in training as a wrongly labelled aim would."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.alignment import Pull, align, steepest_rows
from casemate.core.data import Poison
from casemate.core.learner import trainable, weight_gradient
from casemate.core.registry import Paper, targeted
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop
from casemate.ops.losses import error_odds

Choice = Literal["random", "steepest", "hardest"]


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
    version=2,
)
def gradient_matching(
    workshop: Workshop,
    aims: Aims,
    budget: Tampering,
    /,
    *,
    surrogates: Annotated[int, Ge(1)] = 1,
    trained: Annotated[float, Gt(0), Le(1)] = 1.0,
    choice: Choice = "random",
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
        trained: share of the recipe's epochs that these nets are trained for; all in the paper. Poisons
            work while a victim learns: once it fits the rows they pull no more.
        choice: which rows of the wished class change: random ones, as in the paper, those with the
            largest gradients, which a net in training follows the furthest, or those that fully trained
            nets are least sure of, which pull the longest.
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
    models = [trainable(model) for model in _surrogates(workshop, surrogates, trained, rng)]
    ranked: dict[int, Tensor] = {}
    made = []
    # nets share their weights between the rows of one aim alone: side by side, aims would take turns anyway
    for t, (aim, wish) in enumerate(zip(aims.x, aims.wish.tolist(), strict=True)):
        if wish not in ranked:
            ranked[wish] = _candidates(workshop, models, wish, choice, budget.poisons)
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


def _surrogates(workshop: Workshop, count: int, trained: float, rng: Generator) -> Sequence[Classifier]:
    """Give the nets that are kept ready, or train some for a share of the epochs."""
    if trained == 1:
        return workshop.surrogates(count)
    early = replace(workshop.recipe, epochs=max(1, round(trained * workshop.recipe.epochs)))
    return [early(workshop.clean, rng=rng) for _ in range(count)]


def _always(pulls: Sequence[Pull]) -> Callable[[int, Tensor], Sequence[Pull]]:
    """Pull the same way at every step."""
    return lambda i, x: pulls


def _candidates(
    workshop: Workshop, models: Sequence[Classifier], wish: int, choice: Choice, count: int
) -> Tensor:
    """List the rows of a class that may change, those to be preferred first."""
    clean = workshop.clean
    own = (clean.y == wish).nonzero().flatten()
    match choice:
        case "random":
            return own
        case "steepest":
            return own[steepest_rows(models[0], clean.x[own], clean.y[own], count)]
        case "hardest":
            finished = workshop.surrogates(len(models))
            odds = [error_odds(model.predict(clean.x[own]), clean.y[own]) for model in finished]
            return own[torch.stack(odds).mean(0).argsort(descending=True, stable=True)]
        case _:
            assert_never(choice)
