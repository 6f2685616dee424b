"""Untrained nets that take x in [0, 1] although their architecture wants other values."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from casemate.core.target import Classifier


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
