"""Untrained nets of a target's architecture, for whatever trains it anew."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from casemate.core.target import Classifier
from casemate.ops.rng import seeded


@dataclass(frozen=True)
class Fresh:
    """Maker of untrained nets: calls `build` and draws every weight anew.

    `build` may return a trained net, and may seed torch's generators as it pleases; whoever trains
    from scratch must start from neither.
    """

    build: Callable[[], nn.Module]

    def __call__(self) -> nn.Module:
        """Make an untrained net."""
        cpu = torch.device("cpu")
        seed = int(torch.randint(2**62, ()))
        with seeded(0, cpu):
            net = self.build()
        with seeded(seed, cpu):
            for reset in filter(None, map(_reset, net.modules())):
                reset()
        return net


def stuck(net: nn.Module) -> str:
    """Name a layer whose weights cannot be drawn anew; empty where all can."""
    for module in net.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and any(p.requires_grad for p in own) and _reset(module) is None:
            return type(module).__name__
    return ""


def _reset(module: nn.Module) -> Any:
    """Method that draws the module's own weights anew, by either name that torch gives it."""
    return getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)


@dataclass(frozen=True)
class Normalise:
    """Hook before a net: turns x in [0, 1] into what the net takes (see `core.target.Classifier`).

    As a hook it leaves the net's weights under their own names.
    """

    bounds: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Normalise the first argument."""
        x, *rest = inputs
        same = Classifier(nn.Identity(), 0, (), self.bounds, self.mean, self.std)
        return (same.logits(x), *rest)


@dataclass(frozen=True)
class Normalised:
    """Maker of nets that take x in [0, 1] although their architecture wants other values."""

    build: Callable[[], nn.Module]
    before: Normalise

    def __call__(self) -> nn.Module:
        """Make an untrained net."""
        net = self.build()
        net.register_forward_pre_hook(self.before)
        return net
