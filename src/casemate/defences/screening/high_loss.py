"""Loss screening."""

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.fresh import Fresh, stuck
from casemate.core.recipe import Recipe
from casemate.core.registry import Paper, screening
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

YANG = Paper(
    "Generative poisoning attack method against neural networks",
    "Yang, Wu, Li, Chen",
    2017,
    "https://arxiv.org/abs/1703.01340",
)

BATCH = 32
LEAST = 200  # steps without which a net knows nothing of any class, however few the rows


@screening(
    papers=(YANG,),
    known_as=("loss screening", "loss-based detection", "small-loss selection"),
    against=("poisoning",),
)
def high_loss(
    model: Classifier,
    data: Samples,
    /,
    *,
    folds: Annotated[int, Ge(2)] = 3,
    epochs: Annotated[int, Ge(1)] = 3,
    lr: Annotated[float, Gt(0)] = 3e-3,
    threshold: Annotated[float, Gt(0)] | None = None,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop the rows that a model briefly trained on the others finds unlikely for their label.

    The paper watches the loss of each input under a model that is still to be trusted. There is none
    here: untrained nets of the model's architecture learn from all folds of the data but one, for a
    short time, so that they have seen neither the rows they are asked about nor learnt single rows by
    heart. Wrong labels stand out; poisons that are easy to learn, as those of backdoors are, do not.

    Args:
        model: classifier whose architecture is trained; its weights play no part.
        data: training set that may be poisoned.
        folds: parts of the data, each judged by a net that was trained on the others.
        epochs: passes of that training; a short one has not yet learnt rows that are odd.
        lr: its peak learning rate (Adam).
        threshold: loss in nats above which a row is dropped; None means that of a guess, log K.
        rng: source of the folds, the first weights and the order of the rows.
        tick: called after each step of the trainings with the loss.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: there are too few rows, or the net has layers whose weights cannot be drawn anew.
    """
    found = suspicion(model, data, folds=folds, epochs=epochs, lr=lr, threshold=threshold, rng=rng, tick=tick)
    return found <= 1


def suspicion(
    model: Classifier,
    data: Samples,
    /,
    *,
    folds: int = 3,
    epochs: int = 3,
    lr: float = 3e-3,
    threshold: float | None = None,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Divide each row's loss under a net that has not seen it by the threshold, (N,); above 1 is suspicious."""
    if layer := stuck(model.net):
        raise NotApplicable(f"the weights of its {layer} layer cannot be drawn anew")
    if not model.differentiable or len(data) < 2 * folds:
        raise NotApplicable(
            f"loss screening needs a net with gradients and at least {2 * folds} rows. Got {len(data)} rows"
        )
    part = (torch.randperm(len(data), generator=rng) % folds).to(data.y.device)
    losses = torch.zeros(len(data), device=data.x.device)
    early = _Early(model, epochs, lr)
    for fold in range(folds):
        rest, held = data[part != fold], data[part == fold]
        judge = early.train(rest, rng, partial(_after, tick, fold, folds))
        losses[part == fold] = F.cross_entropy(judge.predict(held.x), held.y, reduction="none")
    return losses / (math.log(model.classes) if threshold is None else threshold)


class _Early:
    """Short trainings of a classifier's architecture from scratch, which see inputs as the classifier does."""

    def __init__(self, model: Classifier, epochs: int, lr: float) -> None:
        self.model = model
        self.recipe = Recipe(
            Fresh(partial(_thawed, model.net)),
            "early model",
            epochs,
            BATCH,
            lr,
            batch_loss=self.cross_entropy,
        )

    def cross_entropy(self, net: torch.nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of a batch."""
        return F.cross_entropy(replace(self.model, net=net).logits(x), y)

    def train(self, data: Samples, rng: Generator, tick: Tick) -> Classifier:
        """Train one."""
        few = self.recipe.steps(len(data)) / self.recipe.epochs
        epochs = max(self.recipe.epochs, math.ceil(LEAST / few))
        return replace(self.model, net=replace(self.recipe, epochs=epochs)(data, rng=rng, tick=tick).net)


def _thawed(net: torch.nn.Module) -> torch.nn.Module:
    """Copy a net, with all of its weights to be trained."""
    return copy.deepcopy(net).requires_grad_(True)


def _after(tick: Tick, fold: int, folds: int, step: int, total: int, values: dict[str, float], /) -> None:
    """Count the steps of all folds."""
    tick(fold * total + step, folds * total, values)
