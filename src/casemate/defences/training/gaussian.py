"""Training with Gaussian noise."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor, nn

from casemate.core.recipe import BatchLoss, Recipe
from casemate.core.registry import Paper, training

COHEN = Paper(
    "Certified adversarial robustness via randomized smoothing",
    "Cohen, Rosenfeld, Kolter",
    2019,
    "https://arxiv.org/abs/1902.02918",
)


@training(papers=(COHEN,), known_as=("Gaussian data augmentation", "noise augmentation", "smoothed training"))
def gaussian(recipe: Recipe, /, *, sigma: Annotated[float, Gt(0)] = 0.25) -> Recipe:
    """Train on inputs with Gaussian noise, so that the model can be smoothed (`serving.smoothing`).

    The noise is drawn anew for each batch and is not clipped to [0, 1], as when it is smoothed.

    Args:
        recipe: how the model is trained.
        sigma: standard deviation of the noise, in units of `x`; that of the smoothing.

    Returns:
        The recipe with noisy batches.
    """
    return replace(recipe, batch_loss=Noisy(recipe.batch_loss, sigma))


@dataclass(frozen=True)
class Noisy:
    """A batch loss at inputs with noise."""

    loss: BatchLoss
    sigma: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Add noise to the batch and compute its loss."""
        return self.loss(net, x + self.sigma * torch.randn(x.shape, generator=rng).to(x), y, rng=rng)
