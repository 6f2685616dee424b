"""Effective poison identification."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.features import penultimate
from casemate.core.recipe import Recipe, Scheduled, one_cycle
from casemate.core.registry import Paper, training
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.ops.medoids import medoids, sizes

YANG = Paper(
    "Not all poisons are created equal: robust training against data poisoning",
    "Yang, Liu, Mirzasoleiman",
    2022,
    "https://proceedings.mlr.press/v162/yang22j.html",
)


@training(
    papers=(YANG,),
    known_as=("EPIC", "effective poison identification", "isolated medoids"),
    against=("targeted", "backdoor"),
)
def epic(
    recipe: Recipe,
    /,
    *,
    share: Annotated[float, Gt(0), Lt(1)] = 0.2,
    times: Annotated[int, Ge(1)] = 3,
    first: Annotated[float, Gt(0), Lt(1)] = 0.15,
    last: Annotated[float, Gt(0), Lt(1)] = 0.45,
) -> Recipe:
    """Drop, in the course of a training, the rows whose gradients no other row of their class is near to.

    What moves a net towards a wrong answer for one input must differ from what its class does otherwise,
    so rows that achieve it are isolated by their gradient in the last layer. After some passes, and again
    later, each class is given medoids, and those that stand for no other row are dropped from the rest of
    the training, whose learning rate goes on falling. Clean rows that are hard go as well, but not before
    they have taught something. Poisons of one kind that are many stand for each other, and stay: of a patch
    backdoor with wrong labels 86% was left.

    Args:
        recipe: how the model is trained.
        share: medoids of a class, as a share of its rows, in (0, 1).
        times: number of times that rows are dropped, at even distances.
        first: share of the passes after which that happens first, in (0, 1).
        last: share of the passes after which it happens for the last time, in (0, 1).

    Returns:
        The recipe of a training that drops rows.

    Raises:
        UsageError: the recipe's training is in stages already, averages weights or is of one pass, after
            which nothing is left to drop rows from; or `last` is before `first`.
    """
    if recipe.course is not None or recipe.average:
        raise UsageError("EPIC needs a recipe of one stage without averaged weights. Got another one.")
    if recipe.epochs < 2:
        raise UsageError(f"EPIC drops rows between passes and needs epochs >= 2. Got {recipe.epochs}.")
    if last < first:
        raise UsageError(f"The 'last' of training.epic must be at least first={first:g}. Got {last:g}.")
    return replace(recipe, course=Dropping(share, times, first, last))


@dataclass(frozen=True)
class Dropping:
    """One descent in which isolated rows are left out from certain passes on."""

    share: float
    times: int
    first: float
    last: float

    def __call__(
        self, recipe: Recipe, net: nn.Module, data: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> None:
        """Train `net` in place."""
        trained = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
        kept, total = torch.arange(len(data), device=data.y.device), self.steps(recipe, len(data))
        for epoch in range(recipe.epochs):
            if epoch in self.passes(recipe.epochs):
                kept = connected(net, data, kept, self.share)
            net.train()
            order = kept[torch.randperm(len(kept), generator=rng).to(kept.device)]
            # batch normalisation cannot train on one row
            parts = order.tensor_split(min(-(-len(kept) // recipe.batch), len(kept) // 2))
            for i, rows in enumerate(parts):
                progress = (epoch + i / len(parts)) / recipe.epochs
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * one_cycle(progress)
                loss_of = recipe.batch_loss
                loss_of = loss_of.at(progress) if isinstance(loss_of, Scheduled) else loss_of
                loss = loss_of(net, data.x[rows], data.y[rows], rng=rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            tick((epoch + 1) * total // recipe.epochs, total, {"loss": loss.item(), "rows": len(kept)})

    def passes(self, epochs: int) -> set[int]:
        """Number the passes before which rows are dropped, none before the first and none after the last."""
        along = torch.linspace(self.first, self.last, self.times).tolist()
        return {min(max(1, round(share * epochs)), epochs - 1) for share in along}

    def steps(self, recipe: Recipe, n: int, /) -> int:
        """Count the steps, as if no row were dropped."""
        return recipe.epochs * -(-n // recipe.batch)


def connected(net: nn.Module, data: Samples, kept: Tensor, share: float) -> Tensor:
    """Leave out of the rows (M,) those that are isolated.

    Of each class one row at least is no medoid, and it and its medoid stay: no class is lost.
    """
    rows, model = data[kept], Classifier(net, data.classes, data.shape, device=data.x.device)
    alone = torch.zeros_like(rows.y, dtype=torch.bool)
    # class by class: a row's gradient has as many values as the last layer
    for label in rows.y.unique():
        own = (rows.y == label).nonzero().flatten()
        alone[own] = isolated(gradients(model, rows[own]), share)
    return kept[~alone]


def gradients(model: Classifier, data: Samples) -> Tensor:
    """Differentiate each row's loss by the weights of the last layer and its biases, (N, K (D + 1)).

    That is probabilities minus label, times the features of D values and 1. The authors' code leaves the
    features out, which tells rows of many classes apart; of two classes nothing but the loss would be left.
    """
    odds = torch.cat([model.predict(part).softmax(1) for part in data.x.split(250)])
    errors = odds - nn.functional.one_hot(data.y, odds.shape[1]).to(odds)
    features = penultimate(model, data.x)
    features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    return (errors[:, :, None] * features[:, None, :]).flatten(1)


def isolated(points: Tensor, share: float) -> Tensor:
    """Tell which rows (N, D) of a class are medoids that stand for no other row, (N,) bool."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    count = int(share * len(points))
    if count:
        chosen = medoids(points, count)
        found[chosen[sizes(points, chosen) == 1]] = True
    return found
