"""Run the scenes of poisons that trade damage for being seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from casemate.assess.families.poisoning import over_victims
from casemate.core.data import Poison, PoisonBudget, Samples, split
from casemate.core.registry import Entry, find
from casemate.core.tick import Tick
from casemate.core.workers import Workers
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator, seed_of
from casemate.ops.roc import auc
from casemate.ops.stats import Estimate
from casemate.scenes.scene import DialScene

CLEAN, FLIPS = "clean", "random wrong labels"


@dataclass(frozen=True)
class Dialled:
    """Errors of victims, and how well a detector tells what they were given from clean rows (AUC).

    Keys are the values of the dial, and besides "clean" rows (without a detector) and "random wrong labels".
    """

    error: dict[float | str, Estimate]
    seen: dict[float | str, float]


def dialled(scene: DialScene, entry: Entry, seed: int, pool: Workers, tick: Tick) -> Dialled:
    """Poison at each value of the dial and by random wrong labels, and train a victim for each poison."""
    train, test = _drawn(scene, seed)
    values: list[float | str] = sorted({scene.at, scene.harmless, *scene.sweep})
    poisons = {
        value: _poisons(scene, entry, value, train, seed, _part(tick, i, len(values)))
        for i, value in enumerate((*values, FLIPS))
    }
    sets: dict[float | str, list[Samples]] = {CLEAN: [train] * scene.repeats}
    sets |= {value: [poison.apply(train) for poison in made] for value, made in poisons.items()}
    recipe, seeds = scene.recipe(), [seed_of(seed, "victim", r) for r in range(scene.repeats)]
    jobs = [(recipe, rows, own) for each in sets.values() for rows, own in zip(each, seeds, strict=True)]
    wrong = [float((m.predict(test.x).argmax(1) != test.y).double().mean()) for m in pool.train_many(jobs)]
    errors = np.array(wrong).reshape(len(sets), scene.repeats).tolist()
    return Dialled(
        {key: over_victims(each, len(test)) for key, each in zip(sets, errors, strict=True)},
        {key: _seen(made, train, test, scene.neighbours) for key, made in poisons.items()},
    )


def rises(values: Sequence[float]) -> bool:
    """Tell whether each value is above the one before, so that Spearman's correlation with their order is 1."""
    return all(a < b for a, b in pairwise(values))


def _drawn(scene: DialScene, seed: int) -> tuple[Samples, Samples]:
    """Draw as many training rows as the data have from all rows, and leave the others for the test."""
    train, test = scene.data()
    x, y = torch.cat([train.x, test.x]), torch.cat([train.y, test.y])
    return split(Samples(x, y, train.classes, train.names), len(train), generator(seed, "rows"))


def _poisons(
    scene: DialScene, entry: Entry, value: float | str, train: Samples, seed: int, tick: Tick
) -> list[Poison]:
    """Make a poison for each repeat; the random numbers are the same for all values of the dial."""
    budget = PoisonBudget(scene.rate)
    rngs = [generator(seed, entry.id, r) for r in range(scene.repeats)]
    if value == FLIPS:
        flip = find("poisoning.label_flip")
        return [flip.run(train, budget, rng=rng) for rng in rngs]
    params = entry.validate({**scene.params, scene.dial: value})
    known = Workshop(train, scene.recipe(), lambda count: [])
    return [
        entry.run(known, budget, rng=rng, tick=_part(tick, r, len(rngs)), **params)
        for r, rng in enumerate(rngs)
    ]


def _part(tick: Tick, part: int, of: int) -> Tick:
    """Tell of the steps of one of several equal parts as steps of the whole."""

    def told(step: int, total: int, values: Mapping[str, float], /) -> None:
        tick(part * total + step, of * total, values)

    return told


def _seen(poisons: Sequence[Poison], train: Samples, test: Samples, k: int) -> float:
    """Mean AUC of a detector that holds the clean training rows: poison against clean test rows."""
    fair = _far(test.x, test.y, train, k)
    areas = [auc(_far(each.x, each.y, train, k).numpy(), fair.numpy()).value for each in poisons]
    return float(np.mean(areas))


def _far(x: Tensor, y: Tensor, known: Samples, k: int) -> Tensor:
    """Euclidean distance of inputs (N, *S) to the k-th nearest known row of their label, (N,)."""
    far = torch.cdist(x.flatten(1), known.x.flatten(1))
    far[y[:, None] != known.y] = torch.inf
    return far.kthvalue(k, dim=1).values
