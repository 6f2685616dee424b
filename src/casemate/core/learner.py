"""Nets and the gradients by their weights, for an adversary who trains in the head.

A `Learner` is a function of weights that change from call to call; a `trainable` classifier has its own.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap

from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.ops.rng import seeded

Weights = tuple[Tensor, ...]
ROWS_AT_A_TIME = 256
VALUES = 2**25  # most gradients by weights that are held at a time, in values
AT_ONCE = 2048  # rows in a graph; training in the head takes all of its rows at once


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
        return _gradient(of.loss(at, x, y), at)


def row_sizes(of: Learner, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Square the l2 size of the gradient, by the weights, of the loss of each row x (N, *S), y (N,): (N,)."""

    def loss(at: Weights, row: Tensor, label: Tensor) -> Tensor:
        return of.loss(at, row[None], label[None])

    at = tuple(w.detach() for w in weights)
    rows = max(1, min(ROWS_AT_A_TIME, VALUES // sum(w.numel() for w in at)))
    each = vmap(grad(loss), in_dims=(None, 0, 0))
    sizes = []
    for some, labels in zip(x.split(rows), y.split(rows), strict=True):
        try:
            found = each(at, some, labels)
        except RuntimeError:
            # recurrent layers, writes in place and branches on values cannot be batched
            alone = [slope(of, at, a, b) for a, b in zip(some.split(1), labels.split(1), strict=True)]
            found = tuple(torch.stack(parts) for parts in zip(*alone, strict=True))
        sizes.append(torch.stack([g.flatten(1).square().sum(1) for g in found]).sum(0))
    return torch.cat(sizes)


def row_products(
    of: Learner, weights: Sequence[Tensor], x: Tensor, y: Tensor, along: Sequence[Tensor]
) -> Tensor:
    """Multiply the gradient of the loss of each row x (N, *S), y (N,) by a point of weight space: (N,).

    The gradient of a weighted sum of losses is differentiated by the weights of the rows, so that no
    gradient of a single row is needed.
    """
    found = []
    for some, labels in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True):
        with torch.enable_grad():
            at = [w.detach().requires_grad_() for w in weights]
            shares = torch.ones(len(some), dtype=x.dtype, device=x.device, requires_grad=True)
            losses = nn.functional.cross_entropy(of.logits(at, some), labels, reduction="none")
            whole = product(_gradient(shares @ losses, at, graph=True), along)
            found.append(torch.autograd.grad(whole, shares)[0])
    return torch.cat(found)


def trainable(model: Classifier, /) -> Classifier:
    """Copy a classifier so that its weights have gradients; evaluation mode, the original is not touched."""
    return replace(model, net=copy.deepcopy(model.net).eval().requires_grad_(True))


def weight_gradient(model: Classifier, x: Tensor, y: Tensor, /, *, graph: bool = False) -> Weights:
    """Differentiate the mean cross-entropy of x (N, *S) with labels y (N,) by all weights of a classifier.

    Args:
        model: a classifier from `trainable`.
        x: inputs (N, *S), N >= 1.
        y: classes (N,).
        graph: whether the gradient can itself be differentiated, by x.

    Returns:
        One gradient for each weight that has any.
    """
    weights = [p for p in model.net.parameters() if p.requires_grad]
    with torch.enable_grad():
        return _gradient(nn.functional.cross_entropy(model.logits(x), y), weights, graph=graph)


def _gradient(loss: Tensor, weights: Sequence[Tensor], *, graph: bool = False) -> Weights:
    """Differentiate by weights; what plays no part in the loss has gradient zero."""
    found = torch.autograd.grad(loss, weights, create_graph=graph, allow_unused=True)
    return tuple(torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True))


def descend(of: Learner, weights: Sequence[Tensor], x: Tensor, y: Tensor, rate: float, steps: int) -> Weights:
    """Take `steps` steps of gradient descent on all rows, of length `rate` times the gradient."""
    now = tuple(weights)
    for _ in range(steps):
        now = tuple(torch._foreach_sub(now, slope(of, now, x, y), alpha=rate))
    return now


def product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Multiply two points of weight space, a scalar."""
    return torch.stack([(u * v).sum() for u, v in zip(a, b, strict=True)]).sum()
