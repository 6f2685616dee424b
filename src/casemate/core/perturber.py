"""A small network from an input to values of the same shape, and its training loop."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from casemate.core.tick import Tick
from casemate.ops.rng import batches, seeded


class Perturber(nn.Module):
    """Two strided convolutions, a hidden layer and a layer of as many values as the input has.

    The whole picture decides on each value, and each value has weights of its own: a purely
    convolutional net of equal cost does not know where in the picture it is. Inputs that are no
    pictures meet two hidden layers instead.
    """

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int) -> None:
        super().__init__()
        self.shape = shape
        values = math.prod(shape)
        if len(shape) == 3:
            reduced = [-(-side // 4) for side in shape[1:]]
            inner = 2 * width * reduced[0] * reduced[1]
            self.encoder = nn.Sequential(
                nn.Conv2d(shape[0], width, 3, 2, 1), nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            )  # fmt: skip
        else:
            inner = hidden
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(values, hidden), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Flatten(), nn.Linear(inner, hidden), nn.ReLU(), nn.Linear(hidden, values)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute unbounded values (N, *S) for inputs (N, *S)."""
        out: Tensor = self.decoder(self.encoder(x))
        return out.view(-1, *self.shape)


def perturber(x: Tensor, width: int, hidden: int, rng: Generator) -> Perturber:
    """Build a fresh net for inputs like x, in its precision and on its device; weights come from `rng`."""
    with seeded(int(torch.randint(2**62, (), generator=rng)), x.device):
        return Perturber(tuple(x.shape[1:]), width, hidden).to(x)


def fit(
    net: nn.Module, n: int, loss: Callable[[Tensor], Tensor], /, *, steps: int, batch: int, lr: float,
    rng: Generator, tick: Tick, device: torch.device,
) -> None:  # fmt: skip
    """Minimise `loss(rows)` over random batches of n rows by Adam, whose rate stays, then falls to zero.

    Args:
        net: its parameters are changed.
        n: number of rows.
        loss: rows (B,) -> scalar with a graph.
        steps: number of batches.
        batch: rows of a batch.
        lr: learning rate in the first half.
        rng: source of the order of the rows.
        tick: called every 25 steps with the loss.
        device: where the rows are indexed.
    """
    weights = list(net.parameters())
    optimizer = torch.optim.Adam(weights, lr=lr)
    for step, rows in enumerate(batches(n, batch, steps, rng)):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        with torch.enable_grad():
            value = loss(rows.to(device))
            grads = torch.autograd.grad(value, weights, allow_unused=True)
        for weight, grad in zip(weights, grads, strict=True):
            weight.grad = grad
        optimizer.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            tick(step + 1, steps, {"loss": value.item()})
    for weight in weights:
        weight.grad = None
        weight.requires_grad_(False)
