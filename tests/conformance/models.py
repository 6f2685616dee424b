"""Targets of a few hundred weights, each with one property that attacks trip over.

All weights come from their own seeded generators, so that building a model leaves the global
generators alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from casemate.core.target import Classifier

IMAGE = (2, 5, 6)
TABLE = (7,)


@dataclass(frozen=True)
class Setting:
    """A target with rows that it classifies correctly, unless said otherwise."""

    target: Classifier
    x: Tensor
    y: Tensor

    def __getitem__(self, rows: slice | Tensor) -> "Setting":
        return Setting(self.target, self.x[rows], self.y[rows])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a private state of the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def inputs(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Uniform inputs in [0.25, 0.75], away from the box."""
    return 0.25 + 0.5 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """Logits W (x - 1/2) + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1) - 0.5, self.weight, self.bias)


class Altered(nn.Module):
    """A net whose output passes through a function."""

    def __init__(self, net: nn.Module, alter: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.alter = net, alter

    def forward(self, x: Tensor) -> Tensor:
        return self.alter(self.net(x))


def altered(setting: Setting, alter: Callable[[Tensor], Tensor], outputs: str = "logits") -> Setting:
    """Pass the target's logits through `alter`."""
    old = setting.target
    target = Classifier(Altered(old.net, alter), old.classes, old.shape, outputs=outputs)
    return Setting(target, setting.x, setting.y)


def _labelled(net: nn.Module, classes: int, x: Tensor, dtype: torch.dtype) -> Setting:
    target = Classifier(net.to(dtype), classes, tuple(x.shape[1:]))
    x = x.to(dtype)
    return Setting(target, x, target.predict(x).argmax(1))


def linear(
    classes: int = 3,
    shape: tuple[int, ...] = (1, 4, 4),
    n: int = 8,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Setting:
    """A linear classifier with random weights; its rows are labelled by itself."""
    size = inputs(1, shape).numel()
    weight = torch.randn(classes, size, generator=torch.Generator().manual_seed(seed + 1))
    return _labelled(Linear(weight), classes, inputs(n, shape, seed), dtype)


def binary_pixels(dtype: torch.dtype = torch.float64) -> Setting:
    """Images whose pixels are exactly 0 or 1, near the boundary of a linear classifier."""
    generator = torch.Generator().manual_seed(3)
    setting = linear(dtype=dtype)
    x = (torch.rand(400, 1, 4, 4, generator=generator) < 0.5).to(dtype)
    top = setting.target.predict(x).topk(2, 1).values
    near = (top[:, 0] - top[:, 1]).sub(0.5).abs().argsort()[:8]
    return Setting(setting.target, x[near], setting.target.predict(x[near]).argmax(1))


def mlp(n: int = 6, dtype: torch.dtype = torch.float64, classes: int = 4) -> Setting:
    """A perceptron on tables of seven features."""
    with seeded(5):
        net = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, classes))
    return _labelled(_centred(net, TABLE), classes, inputs(n, TABLE, 5), dtype)


def conv(n: int = 6, dtype: torch.dtype = torch.float64, classes: int = 4) -> Setting:
    """A convolutional net with batch normalisation and dropout, in evaluation mode."""
    with seeded(6):
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(48, classes),
        )
    net[1].running_mean.fill_(0.1)
    net[1].running_var.fill_(0.3)
    return _labelled(_centred(net.eval(), IMAGE), classes, inputs(n, IMAGE, 6), dtype)


def _centred(net: nn.Sequential, shape: tuple[int, ...]) -> nn.Sequential:
    """Move the last bias so that every class scores alike in the middle of the box."""
    with torch.no_grad():
        net[-1].bias -= net(torch.full((1, *shape), 0.5))[0]
        net[-1].weight *= 5
        net[-1].bias *= 5
    return net


def in_training(dtype: torch.dtype) -> Setting:
    """The convolutional net as a user may hand it over: training, partly frozen, with gradients."""
    setting = conv(dtype=dtype)
    net = setting.target.net
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    return setting


def constant(label: int = 0, dtype: torch.dtype = torch.float64, classes: int = 3) -> Setting:
    """A model that answers `label` whatever it sees; its rows are all of class 0."""
    bias = torch.zeros(classes)
    bias[label] = 1.0
    net = Linear(torch.zeros(classes, 16), bias).to(dtype)
    x = inputs(4, (1, 4, 4)).to(dtype)
    return Setting(Classifier(net, classes, (1, 4, 4)), x, torch.zeros(4, dtype=torch.int64))


def never_fooled(
    shape: tuple[int, ...] = (1, 4, 4), dtype: torch.dtype = torch.float64, classes: int = 5
) -> Setting:
    """A model with slopes everywhere that no input in the box gets away from class 0."""
    setting = linear(classes, shape, 4, dtype)
    with torch.no_grad():
        setting.target.net.bias[0] += 1000
    return Setting(setting.target, setting.x, torch.zeros_like(setting.y))


class Crack(nn.Module):
    """Linear, but with a value that is no number where the first feature exceeds `above`."""

    def __init__(self, net: nn.Module, above: float, value: float) -> None:
        super().__init__()
        self.net, self.above, self.value = net, above, value

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x)
        bad = x.flatten(1)[:, :1] > self.above
        return torch.where(bad, out * self.value, out)


def cracked(above: float, value: float, dtype: torch.dtype = torch.float64) -> Setting:
    """A linear model that answers with `value` beyond a threshold of the first feature."""
    setting = linear(dtype=dtype)
    target = Classifier(Crack(setting.target.net, above, value), 3, (1, 4, 4))
    return Setting(target, setting.x, setting.y)


@cache
def trained(dtype: torch.dtype, shape: tuple[int, ...] = IMAGE) -> Setting:
    """A small net trained on noisy prototypes, with held-out rows that it gets right."""
    generator = torch.Generator().manual_seed(11)
    prototypes = 0.3 + 0.4 * torch.rand(4, *shape, generator=generator)
    y = torch.arange(160) % 4
    x = (prototypes[y] + 0.15 * torch.randn(160, *shape, generator=generator)).clamp(0, 1)
    with seeded(12):
        net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[:100]), y[:100]).backward()
        optimiser.step()
    net.requires_grad_(True).zero_grad(set_to_none=True)
    target = Classifier(net.eval().to(dtype), 4, shape)
    x, y = x[100:].to(dtype), y[100:]
    right = (target.predict(x).argmax(1) == y).nonzero().flatten()[:24]
    return Setting(target, x[right], y[right])


def state(net: nn.Module) -> dict[str, object]:
    """Everything about a net that a caller could notice had changed, by name."""
    seen: dict[str, object] = {}
    for name, module in net.named_modules():
        seen[f"{name} training"] = module.training
        seen[f"{name} hooks"] = (
            len(module._forward_hooks),
            len(module._backward_hooks),
            len(module._forward_pre_hooks),
        )
        seen[f"{name} type"] = type(module)
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        seen[f"{name} value"] = (value.dtype, value.device, value.detach().cpu().numpy().tobytes())
        seen[f"{name} identity"] = (id(value), value.data_ptr())
        seen[f"{name} asks for a gradient"] = value.requires_grad
        seen[f"{name} gradient"] = None if value.grad is None else value.grad.cpu().numpy().tobytes()
    return seen
