"""Victims that go on learning: a recipe that starts from a trained net instead of a fresh one."""

import copy
import hashlib
from dataclasses import dataclass, replace

import torch
from torch import nn

from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier


@dataclass(frozen=True)
class Continued:
    """Maker of copies of a trained net, weights and all."""

    net: nn.Module

    def __call__(self) -> nn.Module:
        """Copy the net."""
        return copy.deepcopy(self.net).requires_grad_(True)


def online(recipe: Recipe, model: Classifier, /) -> Recipe:
    """Turn a recipe into the one by which `model` is trained further on data that come in.

    Whoever gets the new recipe, judge or adversary, gets the weights with it: an adversary who knows the
    recipe of an online victim knows the model that it starts from.

    Args:
        recipe: how training goes on; its own net is not used.
        model: the model so far; inputs reach its net as they are, in [0, 1].

    Returns:
        The recipe, with a digest of the weights in its name.

    Raises:
        UsageError: the model changes its inputs before the net sees them, which a recipe does not, or its
            net returns no logits.
    """
    if model.bounds != (0.0, 1.0) or model.mean or model.std:
        raise UsageError(
            "A model that is trained further takes inputs as they are, in [0, 1]. Got one with bounds "
            f"{model.bounds}, mean {model.mean} and std {model.std}: put them into the net as its first layer."
        )
    if model.outputs != "logits":
        raise UsageError(f"A model that is trained further must return logits. Got {model.outputs}.")
    return replace(recipe, make=Continued(model.net), name=f"{recipe.name} after {_digest(model.net)[:16]}")


def _digest(net: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(raw.numpy(force=True).tobytes())
    return total.hexdigest()
