"""Unlearn recovered triggers: teach the model the true labels of rows that carry them."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.recipe import BatchLoss, Recipe
from casemate.core.shown import AsShown
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

STAMPED = 0.5  # stamped rows per clean one; the paper stamps a fifth of its rows, and has a tenth of the training set
EPOCHS = 15
RATE = 2e-3


@dataclass(frozen=True)
class Still:
    """A batch loss of a net in evaluation mode: few rows must not shift what normalisation layers know."""

    loss: BatchLoss

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of the batch."""
        return self.loss(net.eval(), x, y, rng=rng)


def unlearned(
    model: Classifier,
    clean: Samples,
    triggers: Sequence[Callable[[Tensor], Tensor]],
    /,
    *,
    rng: Generator,
    tick: Tick = ignore,
) -> Classifier:
    """Fine-tune on clean rows and on copies of some that carry the triggers, all with true labels.

    So does Neural Cleanse with the one trigger it reverse-engineers; here every recovered trigger that
    works gets an equal part of the stamped rows.

    Args:
        model: classifier to be mended; it stays as it is.
        clean: rows that are known to be clean.
        triggers: changes of inputs (N, *S) that call up the suspect class.
        rng: source of the stamped rows and of the order.
        tick: called now and then with the loss.

    Returns:
        The mended classifier, a copy.
    """
    count = max(1, round(STAMPED * len(clean) / len(triggers)))
    rows = [torch.randperm(len(clean), generator=rng)[:count] for _ in triggers]
    x = torch.cat([clean.x, *(trigger(clean.x[r]) for trigger, r in zip(triggers, rows, strict=True))])
    y = torch.cat([clean.y, *(clean.y[r] for r in rows)])
    net = copy.deepcopy(model.net).requires_grad_(True)
    how = Recipe(
        partial(copy.deepcopy, net), "unlearning", EPOCHS, batch=32, lr=RATE, batch_loss=Still(AsShown(model))
    )
    # a net may know more classes than the rows show
    return replace(model, net=how(Samples(x.detach(), y, clean.classes), rng=rng, tick=tick).net)
