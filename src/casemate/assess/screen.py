"""Which rows of a training set look poisoned, by several screenings together."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casemate.assess.datasets import load_data
from casemate.assess.progress import Progress, silent
from casemate.builtin.nets import small_cnn, small_mlp
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.defences.screening import activation_clustering, deep_knn, high_loss, strip
from casemate.defences.screening.spectral import spectral
from casemate.ops.rng import generator

LEAST = 20  # rows without which nothing stands out
PASSES, ROWS = 8, 5000  # with which the bounds of the screenings were found
MOST_PASSES = 200


def _spectral(model: Classifier, data: Samples, /, **settings: Any) -> Tensor:
    return 2 * (~spectral(model, data, **settings)).double()


# what gives a row away by itself: groups of rows that a trained net treats in a way of their own
GROUPS: dict[str, Callable[..., Tensor]] = {
    "screening.strip": strip.suspicion,
    "screening.activation_clustering": activation_clustering.suspicion,
}
# what only moves rows up that are suspicious anyway: it raises whole shares of a class
SUPPORT: dict[str, Callable[..., Tensor]] = {"screening.spectral": _spectral}
# what is suspicious only together: rows at the border of two classes raise one of them often
LABELS: dict[str, Callable[..., Tensor]] = {
    "screening.high_loss": high_loss.suspicion,
    "screening.deep_knn": deep_knn.suspicion,
}
# classes without which a screening raises too many rows of clean data, and why. Of clean clothes and
# digits, STRIP raised 30% to 46% with two classes, 1% to 14% with four to six, up to 9% with seven and
# 5% at most with eight or ten; clustering up to 30% with two, 6% with five and 3% with six or more
NEEDED: dict[str, tuple[int, str]] = {
    "screening.strip": (8, "it measures a class against all others together, which a few cannot stand for"),
    "screening.activation_clustering": (
        6,
        "its bound on how far apart clusters lie was found on ten classes",
    ),
}


@dataclass(frozen=True)
class Screened:
    """Rows (N,) of a data set with their scores by screening; a score above 1 raises a row.

    `fit` is the share of the rows that the net trained on all of them gives their own label. `suspicious`
    are row numbers, the most suspicious first; `left_out` says why a screening was not run.
    """

    name: str
    data: Samples
    fit: float
    scores: dict[str, Tensor]
    suspicious: list[int]
    left_out: dict[str, str]

    def raised(self, row: int) -> list[str]:
        """Name the screenings that raise a row."""
        return [name for name, values in self.scores.items() if float(values[row]) > 1]

    @property
    def seeks_backdoors(self) -> bool:
        """Whether any screening ran that looks for backdoors."""
        return any(name in self.scores for name in GROUPS)

    @property
    def share(self) -> float:
        """Share of the rows that are suspicious."""
        return len(self.suspicious) / len(self.data)


def screen(
    data: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    epochs: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Screened:
    """Look for poisoned rows in a training set.

    A small net is trained on all of it and five screenings are asked. A row is suspicious if one
    of those that look for backdoors raises it (STRIP, activation clustering), or both of those that
    look for wrong labels (losses under nets that have not seen it, its neighbours). Spectral signatures
    raise too many clean rows beside poisoned ones to count alone; they only move rows up the list.
    STRIP is left out below eight classes and activation clustering below six, where they raise too many
    rows of clean data; below six, backdoors are not looked for.

    Args:
        data: a specification as for `assess`, or data in memory; of data with two parts, the training
            part is looked at.
        bounds: lowest and highest value of float inputs.
        epochs: passes of the training; None for as many steps as eight passes of 5,000 rows take, and eight
            passes at least. A net that has learnt less has not learnt a trigger, and shows none.
        seed: seed of all random numbers.
        progress: told of each screening and its steps.

    Returns:
        Scores by screening and the suspicious rows.

    Raises:
        UsageError: the data cannot be had, or there are too few rows or classes.
    """
    loaded = load_data(data, bounds=bounds)
    rows = loaded.test if loaded.train is None else loaded.train
    if len(rows) < LEAST or len(rows.y.unique()) < 2:
        raise UsageError(
            f"Screening needs at least {LEAST} rows of two classes or more. Got {len(rows)} rows of "
            f"{len(rows.y.unique())} classes."
        )
    left_out = unfit(len(rows.y.unique()))
    asked = {name: run for name, run in {**GROUPS, **SUPPORT, **LABELS}.items() if name not in left_out}
    titles = ["training a net", *asked]
    progress.plan(titles)
    progress.start(titles[0], titles[0])
    model = _recipe(rows, epochs or passes(len(rows)))(
        rows, rng=generator(seed, "screen"), tick=progress.step
    )
    progress.finish(titles[0], None)
    fit = float((model.predict(rows.x).argmax(1) == rows.y).double().mean())
    scores: dict[str, Tensor] = {}
    for name, suspicion in asked.items():
        progress.start(name, name)
        try:
            scores[name] = suspicion(model, rows, rng=generator(seed, name), tick=progress.step).double()
        except NotApplicable as error:
            left_out[name] = str(error)
        progress.finish(name, None)
    return Screened(loaded.name, rows, fit, scores, ranked(scores, len(rows)), left_out)


def passes(n: int) -> int:
    """Count the passes of n rows that take as many steps as those with which the bounds were found, about."""
    return min(MOST_PASSES, max(PASSES, math.ceil(PASSES * ROWS / n)))


def unfit(classes: int) -> dict[str, str]:
    """Say which screenings would raise too many clean rows of data with so few classes, and why."""
    return {
        name: f"{why}; it needs {least} classes, and there are {classes}"
        for name, (least, why) in NEEDED.items()
        if classes < least
    }


def ranked(scores: dict[str, Tensor], n: int) -> list[int]:
    """Number the suspicious rows: those that most screenings raise first, then by their highest score."""
    none = torch.zeros(n, dtype=torch.float64)
    groups = [scores[name] for name in GROUPS if name in scores]
    alone = torch.stack([none, *groups]).amax(0)
    pair = [scores[name] for name in LABELS if name in scores]
    both = torch.stack(pair).amin(0) if len(pair) == len(LABELS) else none
    raised = torch.stack([none, *[(s > 1).double() for s in scores.values()]]).sum(0)
    # ratios have no common scale: they decide only between rows that equally many raise
    height = torch.maximum(alone, both)
    order = (raised + height / (1 + height)).argsort(descending=True, stable=True)
    return [int(i) for i in order if float(height[i]) > 1]


def _recipe(rows: Samples, epochs: int) -> Recipe:
    net = small_cnn if len(rows.shape) == 3 else small_mlp
    shape = "x".join(map(str, rows.shape))
    make = partial(net, rows.shape, rows.classes)
    return Recipe(make, f"{net.__name__} {shape} {rows.classes}", epochs=epochs, lr=3e-3)
