"""Random label flips."""

from typing import Literal, assert_never

import torch
from torch import Generator

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore
from casemate.ops.labels import flooding

BIGGIO = Paper(
    "Support vector machines under adversarial label noise",
    "Biggio, Nelson, Laskov",
    2011,
    "https://proceedings.mlr.press/v20/biggio11.html",
)
Labels = Literal["each its own", "one for all"]


@poisoning(papers=(BIGGIO,), known_as=("random label flips", "label flipping", "label noise"), version=2)
def label_flip(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    labels: Labels = "each its own",
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Give random rows a wrong label: the least that any poisoning attack must beat.

    Rows are drawn without replacement, and each gets one of the other classes with equal chance. Where all get
    the same, that class floods the set, which costs several times as much.

    Args:
        clean: training set.
        budget: share of its rows that may be changed.
        labels: "each its own" draws a wrong label for each row; "one for all" draws one class of which enough rows
            are not, and gives it to rows of all others.
        rng: source of the rows and labels.
        tick: not called; there is one step.

    Returns:
        The rows with their inputs as they were and a wrong label each.

    Raises:
        NotApplicable: the data have fewer than two classes, so that no label can be wrong.
    """
    if clean.classes < 2:
        raise NotApplicable("labels can only be flipped between two or more classes")
    order = torch.randperm(len(clean), generator=rng).to(clean.y.device)
    most = budget.rows(len(clean))
    match labels:
        case "each its own":
            rows = order[:most]
            shift = torch.randint(1, clean.classes, rows.shape, generator=rng).to(clean.y.device)
            given = (clean.y[rows] + shift) % clean.classes
        case "one for all":
            named = flooding(clean.y, clean.classes, most, rng)
            rows = order[clean.y[order] != named][:most]
            given = torch.full_like(rows, named)
        case _:
            assert_never(labels)
    return Poison(rows, clean.x[rows], given)
