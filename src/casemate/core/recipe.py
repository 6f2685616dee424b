"""Training a victim: the hot loop of poisoning, privacy and hardening."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore


class BatchLoss(Protocol):
    """Loss of one training batch: net, x (B, *S), y (B,) -> scalar; defences replace it."""

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of the batch."""


def cross_entropy(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
    """Mean cross-entropy on the clean batch."""
    return nn.functional.cross_entropy(net(x), y)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a classifier is trained, but its data and its seed.

    `make` builds a fresh net; it is named by `name`, so that a recipe has a digest. Adam with a
    one-cycle learning rate up to `lr`; `batch` rows a step; `batch_loss` is what is minimised.
    """

    make: Callable[[], nn.Module]
    name: str
    epochs: int = 5
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.0
    batch_loss: BatchLoss = cross_entropy

    def __call__(self, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Classifier:
        """Train a fresh net on `data`."""
        raise NotImplementedError
