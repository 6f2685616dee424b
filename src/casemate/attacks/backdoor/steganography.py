"""The invisible backdoor of Li et al. by steganography in the least significant bits."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import UsageError
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import LEVELS, existing, images_only, others

LI = Paper(
    "Invisible backdoor attacks on deep neural networks via steganography and regularization",
    "Li, Xue, Zhao, Zhu, Zhang",
    2020,
    "https://arxiv.org/abs/1909.02742",
)


@backdoor(papers=(LI,), known_as=("Invisible backdoor attack", "Invisible backdoor", "LSB backdoor"))
def steganography(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    text: str = "Backdoor",
    planes: Annotated[int, Ge(1), Le(7)] = 4,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Write a text into the lowest bits of random images and label them as the target class.

    The images must stay in 8 bits from end to end: scaling or lossy compression wipes the text.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        text: what is written, in UTF-8, again and again until the image is full.
        planes: lowest bits of each value that are overwritten; 4 leave about 32 dB, 1 about 51 dB.
        rng: source of the rows.
        tick: not called; there is one step.

    Returns:
        The marked rows with the target's label, the trigger and the target.

    Raises:
        UsageError: the text is empty, or the data have no class `target`.
    """
    images_only(clean, "backdoor.steganography")
    existing(target, clean.classes, "backdoor.steganography")
    if not text:
        raise UsageError("The 'text' of backdoor.steganography must not be empty.")
    rows = others(clean, target, budget, rng)
    trigger = Written(text, planes)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)


@dataclass(frozen=True)
class Written:
    """A text in the lowest `planes` bits of 8-bit images, the highest of them first, pixel by pixel."""

    text: str
    planes: int

    def __call__(self, x: Tensor) -> Tensor:
        """Write into images x (N, C, H, W); values between two levels are rounded first."""
        bits = [int(bit) for byte in self.text.encode() for bit in f"{byte:08b}"]
        size = x.shape[1:].numel()
        count = size * self.planes
        message = torch.tensor(bits, device=x.device).repeat(-(-count // len(bits)))[:count]
        weights = 2 ** torch.arange(self.planes - 1, -1, -1, device=x.device)
        low = (message.view(size, self.planes) * weights).sum(1).view(x.shape[1:])
        step = 2**self.planes
        values = (x * LEVELS).round().long()
        written: Tensor = (values // step * step + low).to(x.dtype)
        return written / LEVELS
