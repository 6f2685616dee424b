"""A learner that the adversary trains in the head: plain gradient descent, as a function of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from casemate.core.recipe import Recipe
from casemate.ops.rng import seeded

Weights = tuple[Tensor, ...]


@dataclass(frozen=True)
class Learner:
    """A net whose weights are given with each call, in evaluation mode; statistics of layers stay.

    `names` are those of the weights that training changes, in the order in which they are given.
    """

    net: nn.Module
    names: tuple[str, ...]

    def logits(self, weights: Sequence[Tensor], x: Tensor) -> Tensor:
        """Compute logits (N, K) of inputs x (N, *S)."""
        out: Tensor = functional_call(self.net, dict(zip(self.names, weights, strict=True)), (x,))
        return out

    def loss(self, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Compute the mean cross-entropy on x (N, *S) with labels y (N,)."""
        return nn.functional.cross_entropy(self.logits(weights, x), y)

    def start(self) -> Weights:
        """Give the weights that the net has."""
        return tuple(dict(self.net.named_parameters())[name].detach() for name in self.names)


def learner(net: nn.Module, dtype: torch.dtype | None = None) -> Learner:
    """Take a net as learner, in another precision if one is given; the net itself is left to it."""
    net = net.eval() if dtype is None else net.eval().to(dtype)
    return Learner(net, tuple(name for name, p in net.named_parameters() if p.requires_grad))


def untrained(recipe: Recipe, like: Tensor, rng: Generator) -> Learner:
    """Build the recipe's net with first weights from `rng`, in the precision and on the device of `like`."""
    with seeded(int(torch.randint(2**62, (), generator=rng)), like.device):
        net = recipe.make()
    return learner(net.to(like.device), like.dtype)


def slope(of: Learner, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Weights:
    """Differentiate the loss by the weights."""
    with torch.enable_grad():
        at = [w.detach().requires_grad_() for w in weights]
        return torch.autograd.grad(of.loss(at, x, y), at)


def descend(of: Learner, weights: Sequence[Tensor], x: Tensor, y: Tensor, rate: float, steps: int) -> Weights:
    """Take `steps` steps of gradient descent on all rows, of length `rate` times the gradient."""
    now = tuple(weights)
    for _ in range(steps):
        now = tuple(torch._foreach_sub(now, slope(of, now, x, y), alpha=rate))
    return now


def product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Multiply two points of weight space, a scalar."""
    return torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]).sum()
