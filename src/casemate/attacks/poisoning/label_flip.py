"""Random label flips."""

import torch
from torch import Generator

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore

BIGGIO = Paper(
    "Support vector machines under adversarial label noise",
    "Biggio, Nelson, Laskov",
    2011,
    "https://proceedings.mlr.press/v20/biggio11.html",
)


@poisoning(papers=(BIGGIO,), known_as=("random label flips", "label noise"))
def label_flip(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Give random rows a wrong label: the least that any poisoning attack must beat.

    Rows are drawn without replacement, and each gets one of the other classes with equal chance.

    Args:
        clean: training set.
        budget: share of its rows that may be changed.
        rng: source of the rows and labels.
        tick: not called; there is one step.

    Returns:
        The rows with their inputs as they were and a wrong label each.

    Raises:
        NotApplicable: the data have fewer than two classes, so that no label can be wrong.
    """
    if clean.classes < 2:
        raise NotApplicable("labels can only be flipped between two or more classes")
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    shift = torch.randint(1, clean.classes, rows.shape, generator=rng).to(clean.y.device)
    return Poison(rows, clean.x[rows], (clean.y[rows] + shift) % clean.classes)
