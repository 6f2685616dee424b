"""Untrained nets of a known architecture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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
