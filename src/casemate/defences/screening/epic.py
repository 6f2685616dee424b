"""Effective poison identification."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.fresh import Fresh, stuck
from casemate.core.recipe import Recipe
from casemate.core.registry import Paper, screening
from casemate.core.shown import AsShown
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.ops.medoids import medoids, sizes
from casemate.ops.rng import seeded

YANG = Paper(
    "Not all poisons are created equal: robust training against data poisoning",
    "Yang, Liu, Mirzasoleiman",
    2022,
    "https://proceedings.mlr.press/v162/yang22j.html",
)
BATCH = 64
LEAST = 40  # steps before each time, without which gradients say nothing yet, however few the rows


@screening(
    papers=(YANG,),
    known_as=("EPIC", "effective poison identification", "isolated medoids"),
    against=("targeted",),
)
def epic(
    model: Classifier,
    data: Samples,
    /,
    *,
    share: Annotated[float, Gt(0), Lt(1)] = 0.2,
    rounds: Annotated[int, Ge(1)] = 5,
    every: Annotated[int, Ge(1)] = 2,
    lr: Annotated[float, Gt(0)] = 3e-3,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop, in the course of a training, the rows whose gradients no other row of their class is near to.

    What moves a net towards a wrong answer for one input must differ from what its class does otherwise,
    so rows that achieve it are isolated by their gradient in the last layer, probabilities minus label.
    Every few passes each class is given medoids, and those that stand for no other row are dropped from
    the rest of the training. That also costs clean rows which are hard.

    Args:
        model: classifier whose architecture is trained; its weights play no part.
        data: training set that may be poisoned.
        share: medoids of a class, as a share of its rows, in (0, 1).
        rounds: number of times that rows are dropped.
        every: passes of training before each time.
        lr: peak learning rate of that training (Adam).
        rng: source of the first weights and of the order of the rows.
        tick: called after each step of the training with the loss.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: there are too few rows, or the net has layers whose weights cannot be drawn anew.
    """
    if layer := stuck(model.net):
        raise NotApplicable(f"the weights of its {layer} layer cannot be drawn anew")
    if not model.differentiable or len(data) < 2:
        raise NotApplicable("EPIC needs a net with gradients and at least two rows")
    device = data.x.device
    kept = torch.arange(len(data), device=data.y.device)
    how = Recipe(partial(_thawed, model.net), "screened", every, BATCH, lr, batch_loss=AsShown(model))
    with seeded(int(torch.randint(2**62, (), generator=rng)), device):
        net = Fresh(how.make)().to(device)
        for number in range(rounds):
            few = how.steps(len(kept)) / every
            longer = replace(how, epochs=max(every, math.ceil(LEAST / few)))
            longer.fit(net, data[kept], rng=rng, tick=_after(tick, number, rounds))
            judge = replace(model, net=net.eval())
            alone = isolated(gradients(judge, data[kept]), data.y[kept], share)
            if len(kept) - int(alone.sum()) < 2:
                break
            kept = kept[~alone]
    found = torch.zeros(len(data), dtype=torch.bool, device=data.y.device)
    found[kept] = True
    return found


def gradients(model: Classifier, data: Samples) -> Tensor:
    """Differentiate each row's loss by the logits: probabilities minus label, (N, K)."""
    odds = torch.cat([model.predict(part).softmax(1) for part in data.x.split(250)])
    return odds - nn.functional.one_hot(data.y, odds.shape[1]).to(odds)


def isolated(points: Tensor, y: Tensor, share: float) -> Tensor:
    """Tell which rows (N, K) are medoids of their class that stand for no other row, (N,) bool."""
    found = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for label in y.unique():
        rows = (y == label).nonzero().flatten()
        count = int(share * len(rows))
        if count:
            chosen = medoids(points[rows], count)
            found[rows[chosen[sizes(points[rows], chosen) == 1]]] = True
    return found


def _thawed(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net).requires_grad_(True)


def _after(tick: Tick, done: int, rounds: int) -> Callable[..., None]:
    return lambda step, total, values: tick(done * total + step, rounds * total, values)
