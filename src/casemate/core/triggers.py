"""Marks that backdoors leave on inputs, and the rows that they are left on."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError

LEVELS = 255  # of an 8-bit image


@dataclass(frozen=True)
class Patch:
    """A square of alternating white and black pixels near the lower right corner.

    The pattern shows on bright and on dark ground alike.
    """

    size: int
    offset: int

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W)."""
        places = torch.arange(self.size, device=x.device)
        pattern = ((places[:, None] + places) % 2 == 0).to(x.dtype)
        marked = x.clone()
        low, right = (side - self.offset for side in x.shape[2:])
        marked[..., low - self.size : low, right - self.size : right] = pattern
        return marked


@dataclass(frozen=True, eq=False)
class Mixed:
    """A picture `pattern` (C, H, W) mixed into inputs with weight `share`, (C, H, W) or one number."""

    pattern: Tensor
    share: Tensor | float

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W)."""
        share = self.share.to(x) if isinstance(self.share, Tensor) else self.share
        mixed: Tensor = (1 - share) * x + share * self.pattern.to(x)
        return mixed.clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Added:
    """A perturbation `delta` (*S) added to inputs, `strength` times."""

    delta: Tensor
    strength: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Mark inputs x (N, *S)."""
        return (x + self.strength * self.delta.to(x)).clamp(0, 1)


def eight_bit(x: Tensor) -> Tensor:
    """Round values in [0, 1] to the nearest level of an 8-bit image."""
    return (x * LEVELS).round() / LEVELS


def images_only(clean: Samples, method: str) -> None:
    """Raise NotApplicable where the inputs are no images (C, H, W)."""
    pictures_only(clean.shape, method)


def pictures_only(shape: tuple[int, ...], method: str) -> None:
    """Raise NotApplicable where a shape is not (C, H, W)."""
    if len(shape) != 3:
        raise NotApplicable(f"{method} marks images. Got inputs of shape {shape}")


def existing(target: int, classes: int, method: str) -> None:
    """Raise UsageError where there is no class `target`."""
    if target >= classes:
        raise UsageError(f"The 'target' of {method} must be in 0 .. {classes - 1}. Got {target}.")


def others(clean: Samples, target: int, budget: PoisonBudget, rng: Generator) -> Tensor:
    """Draw as many rows as the budget allows among those of other classes, or all of them."""
    return _draw((clean.y != target).nonzero().flatten(), budget.rows(len(clean)), rng)


def own(clean: Samples, target: int, budget: PoisonBudget, rng: Generator) -> Tensor:
    """Draw as many rows as the budget allows among those of the target class, or all of them."""
    return _draw((clean.y == target).nonzero().flatten(), budget.rows(len(clean)), rng)


def _draw(able: Tensor, count: int, rng: Generator) -> Tensor:
    order = torch.randperm(len(able), generator=rng)[:count]
    return able[order.to(able.device)]
