"""The worst weights near the present ones, for training that ends in a flat valley."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from casemate.core.recipe import BatchLoss


@dataclass(frozen=True)
class WorstWeights:
    """A batch loss at the weights nearby where it is largest (AWP, Wu, Xia & Wang 2020).

    Each layer's weights w move by `gamma` times their norm along the gradient of the loss, in one
    step, as the authors' code has it. Gradients are those at the moved weights. Only tensors of two
    or more dimensions move: biases and normalisation have no scale of their own.
    """

    loss: BatchLoss
    gamma: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Move the weights and compute the loss of the batch there."""
        named = {n: p for n, p in net.named_parameters() if p.requires_grad and p.dim() > 1}
        grads = torch.autograd.grad(self.loss(net, x, y, rng=rng), list(named.values()))
        moved = {
            name: p + self.gamma * p.detach().norm() * unit(grad)
            for (name, p), grad in zip(named.items(), grads, strict=True)
        }
        return self.loss(_Elsewhere(net, moved), x, y, rng=rng)


def unit(grad: Tensor) -> Tensor:
    """Scale a gradient to length 1; the zero gradient stays."""
    peak = grad.abs().max()
    # by its largest value first: squares of small gradients underflow
    grad = grad / peak if peak > 0 else grad
    length = grad.norm()
    return grad / length if length > 0 else grad


class _Elsewhere(nn.Module):
    """A net at other weights; its buffers are the net's own."""

    def __init__(self, net: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = functional_call(self.net, self.weights, (x,))
        return out
