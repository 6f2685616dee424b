"""Thermometer encoding."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from casemate.core.recipe import Recipe
from casemate.core.registry import Paper, training

BUCKMAN = Paper(
    "Thermometer encoding: one hot way to resist adversarial examples",
    "Buckman, Roy, Raffel, Goodfellow",
    2018,
    "https://openreview.net/forum?id=S18Su--CW",
)
ATHALYE = Paper(
    "Obfuscated gradients give a false sense of security: circumventing defenses to adversarial examples",
    "Athalye, Carlini, Wagner",
    2018,
    "https://arxiv.org/abs/1802.00420",
)


class Code(nn.Module):
    """Write each value of x (N, *S) as bits (N, *S, levels): bit j says whether it exceeds j / levels."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Encode x; bits have no gradient."""
        return (self._above(x) > 0).to(x)

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Encode x by ramps, as Athalye et al. do: min(max(x - j / levels, 0), 1)."""
        return self._above(x).clamp(0, 1)

    def _above(self, x: Tensor) -> Tensor:
        return x[..., None] - torch.arange(self.levels, dtype=x.dtype, device=x.device) / self.levels


class Thermometer(nn.Module):
    """A net that sees each value through its code."""

    def __init__(self, levels: int, net: nn.Module) -> None:
        super().__init__()
        self.code = Code(levels)
        self.mix = nn.Linear(levels, 1)
        with torch.no_grad():
            # starts as the value itself, rounded
            self.mix.weight.fill_(1 / levels)
            self.mix.bias.zero_()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Classify x (N, *S)."""
        out: Tensor = self.net(self.mix(self.code(x)).squeeze(-1))
        return out


@dataclass(frozen=True)
class Encoded:
    """Maker of nets behind a thermometer code."""

    make: Callable[[], nn.Module]
    levels: int

    def __call__(self) -> nn.Module:
        """Make an untrained net."""
        return Thermometer(self.levels, self.make())


@training(papers=(BUCKMAN, ATHALYE), known_as=("thermometer encoding",))
def thermometer(recipe: Recipe, /, *, levels: Annotated[int, Ge(2)] = 16) -> Recipe:
    """Train a model that sees each value as a row of bits; an exhibit, broken by BPDA.

    Bit j of `levels` says whether the value exceeds j / levels. Bits have no gradient, and attacks that
    follow gradients stand still; ramps in their place (`evasion.bpda`) lead through. In the paper the
    first convolution sees all bits; here one learnt weight per bit, shared by all values, makes a
    number of them again, so that any net fits behind.

    Args:
        recipe: how the model is trained.
        levels: number of bits per value.

    Returns:
        The recipe with encoded inputs.
    """
    name = f"{recipe.name}, thermometer {levels}"
    return replace(recipe, make=Encoded(recipe.make, levels), name=name)
