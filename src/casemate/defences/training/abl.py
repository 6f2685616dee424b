"""Anti-backdoor learning."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import BatchLoss, Recipe
from casemate.core.registry import Paper, training
from casemate.core.tick import Tick, ignore
from casemate.defences.training.inner import evaluating
from casemate.ops.losses import error_odds

LI = Paper(
    "Anti-backdoor learning: training clean models on poisoned data",
    "Li, Lyu, Koren, Lyu, Li, Ma",
    2021,
    "https://arxiv.org/abs/2110.11571",
)


@training(
    papers=(LI,),
    known_as=("ABL", "anti-backdoor learning", "local gradient ascent", "loss flooring"),
    against=("backdoor",),
)
def abl(
    recipe: Recipe,
    /,
    *,
    gamma: Annotated[float, Gt(0)] = 0.3,
    early: Annotated[int, Ge(1)] = 4,
    isolated: Annotated[float, Gt(0), Lt(0.5)] = 0.01,
    unlearning: Annotated[int, Ge(0)] = 5,
    lr: Annotated[float, Gt(0)] = 1e-3,
) -> Recipe:
    """Find the rows that are learnt fastest, train on the others, and unlearn what the found ones teach.

    A trigger is easier than clothes: its rows have a low loss after few passes. So that clean rows do not
    reach one as well, the first passes hold the loss of each row at a floor. The rows with the lowest losses then are
    set apart; the model is trained on all others, and at last made to climb the loss of those set apart
    while it goes on descending on the rest. A backdoor that is learnt no faster than its class, as one
    with right labels may be, passes.

    Args:
        recipe: how the model is trained.
        gamma: floor of a row's loss in the first passes, in nats.
        early: number of those passes.
        isolated: share of the rows that are set apart.
        unlearning: passes of climbing on them at the end; 0 leaves it out. A few too few and the whole class
            that the trigger calls up is unlearnt; too many and the rest's poison teaches the trigger again.
        lr: peak learning rate of the climbing, as high as that of training: it must also win the class back.

    Returns:
        The recipe of a training in three stages.

    Raises:
        UsageError: the recipe's training is in stages already.
    """
    if recipe.course is not None:
        raise UsageError("Only a recipe of one stage can take others. Got one with a course of its own.")
    return replace(recipe, course=Stages(gamma, early, isolated, unlearning, lr))


@dataclass(frozen=True)
class Stages:
    """Isolate, train, unlearn."""

    gamma: float
    early: int
    isolated: float
    unlearning: int
    lr: float

    def __call__(
        self, recipe: Recipe, net: nn.Module, data: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> None:
        """Train `net` in place."""
        total = self.steps(recipe, len(data))
        done = 0

        def run(stage: Recipe, rows: Samples) -> None:
            nonlocal done
            start = done
            stage.fit(
                net, rows, rng=rng, tick=lambda s, _, values: tick(min(start + s, total), total, values)
            )
            done += stage.steps(len(rows))

        run(self._first(recipe), data)
        fast = fastest(net, data, self.isolated)
        rest, apart = data[~fast], data[fast]
        run(recipe, rest)
        if self.unlearning:
            run(self._last(recipe, apart), rest)

    def _first(self, recipe: Recipe) -> Recipe:
        return replace(recipe, epochs=self.early, batch_loss=Floored(self.gamma))

    def _last(self, recipe: Recipe, apart: Samples) -> Recipe:
        # the authors' code climbs on the rows set apart alone; the paper's loss has both parts, which
        # needs no luck with the number of steps
        loss = Unlearnt(recipe.batch_loss, apart)
        return replace(recipe, epochs=self.unlearning, lr=self.lr, batch_loss=loss)

    def steps(self, recipe: Recipe, n: int, /) -> int:
        """Count the steps of all stages, as if no row were set apart."""
        stages = [replace(recipe, epochs=self.early), recipe]
        if self.unlearning:
            stages.append(replace(recipe, epochs=self.unlearning))
        return sum(stage.steps(n) for stage in stages)


@dataclass(frozen=True)
class Floored:
    """Cross-entropy of a batch in which rows below `gamma` climb (local gradient ascent).

    Each row by itself, as the paper writes it; in the authors' code a whole batch turns round, in which
    rows that are learnt no faster than others had the lowest losses.
    """

    gamma: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Turn the loss of each row round below the floor."""
        losses = nn.functional.cross_entropy(net(x), y, reduction="none")
        return torch.where(losses < self.gamma, -losses, losses).mean()


@dataclass(frozen=True)
class Unlearnt:
    """A batch loss minus the log-odds that rows to unlearn are wrong (global gradient ascent)."""

    loss: BatchLoss
    apart: Samples

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Descend on the batch and climb on as many rows of those set apart, or all."""
        rows = torch.randperm(len(self.apart), generator=rng)[: len(y)].to(y.device)
        # the paper climbs cross-entropy, which has no slope on rows that are learnt by heart: after three
        # passes on the rows of a patch, all of them found, 99% of the inputs were still misled
        with evaluating(net):  # or batch statistics would become those of poison
            odds = error_odds(net(self.apart.x[rows]), self.apart.y[rows])
        # the paper sets no bound; without one Adam would climb for ever and forget the rest
        enough = 3 * math.log(self.apart.classes)
        return self.loss(net, x, y, rng=rng) - odds.clamp(max=enough).mean()


def fastest(net: nn.Module, data: Samples, share: float) -> Tensor:
    """Tell the share of the rows with the lowest losses, at least one, (N,) bool."""
    with evaluating(net), torch.no_grad():
        losses = torch.cat([
            nn.functional.cross_entropy(net(x), y, reduction="none")
            for x, y in zip(data.x.split(250), data.y.split(250), strict=True)
        ])  # fmt: skip
    count = max(1, round(share * len(data)))
    found = torch.zeros(len(data), dtype=torch.bool, device=data.y.device)
    found[losses.argsort(stable=True)[:count]] = True
    return found
