"""What a trained generator is: codes to inputs, and the way back or a class to ask for."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from casemate.generators.nets import decoder, encoder, finished


@dataclass(frozen=True)
class LatentModel:
    """A generator of inputs from codes z (N, latent), near standard normal, and its inverter."""

    maker: nn.Module
    inverter: nn.Module
    latent: int
    shape: tuple[int, ...]
    width: int

    def decode(self, z: Tensor) -> Tensor:
        """Make inputs (N, *S) in [0, 1]."""
        made: Tensor = self.maker(z)
        return made

    def encode(self, x: Tensor) -> Tensor:
        """Find the codes (N, latent) from which something like x (N, *S) is made."""
        # a variational encoder gives standard deviations after the means
        z: Tensor = self.inverter(x)[:, : self.latent]
        return z


@dataclass(frozen=True)
class ConditionalModel:
    """A generator of inputs of a class that is asked for, and a classifier trained along with it."""

    maker: nn.Module
    auxiliary: nn.Module
    latent: int
    classes: int
    shape: tuple[int, ...]
    width: int

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Make inputs (N, *S) in [0, 1] of classes y (N,) from codes z (N, latent)."""
        made: Tensor = self.maker(torch.cat([z, one_hot(y, self.classes).to(z)], 1))
        return made

    def classify(self, x: Tensor) -> Tensor:
        """Score x (N, *S) with the auxiliary classifier: logits (N, classes)."""
        # the first value tells how real x looks
        scores: Tensor = self.auxiliary(x)[:, 1:]
        return scores


Model = LatentModel | ConditionalModel


def latent_model(latent: int, shape: tuple[int, ...], width: int) -> LatentModel:
    """Build a latent model whose weights are yet to be loaded."""
    made = finished(decoder(latent, shape, width))
    return LatentModel(made, finished(encoder(shape, latent, width)), latent, shape, width)


def conditional_model(latent: int, classes: int, shape: tuple[int, ...], width: int) -> ConditionalModel:
    """Build a conditional model whose weights are yet to be loaded."""
    made = finished(decoder(latent + classes, shape, width))
    return ConditionalModel(made, finished(encoder(shape, 1 + classes, width)), latent, classes, shape, width)
