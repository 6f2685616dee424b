"""ISSBA: a net hides a code in each image, and changes images differently, as far as training makes it."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Paper, backdoor
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import existing, images_only, others
from casemate.ops.rng import seeded

LI = Paper(
    "Invisible backdoor attack with sample-specific triggers",
    "Li, Li, Wu, Li, He, Lyu",
    2021,
    "https://arxiv.org/abs/2012.03816",
)
BATCH = 32
GRID = 4  # side of the map that a code is spread over, as in the paper's encoder


@backdoor(
    papers=(LI,),
    known_as=("ISSBA", "sample-specific backdoor", "Invisible sample-specific backdoor"),
    version=3,
)
def sample_specific(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    bits: Annotated[int, Ge(1)] = 8,
    eps: Annotated[float, Gt(0), Le(1)] = 24 / 255,
    width: Annotated[int, Ge(1)] = 8,
    steps: Annotated[int, Ge(1)] = 300,
    lr: Annotated[float, Gt(0)] = 5e-3,
    likeness: Annotated[float, Ge(0)] = 0.5,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Hide one code in random images by a net, and label them as the target class.

    An encoder, a small U-Net, changes an image so that a decoder reads from it the bits that it was given;
    both are trained on random codes. The backdoor is one of these codes. Where the paper holds down what
    is seen by a perceptual distance and a critic, here a bound on each value and the mean squared change do.
    Nothing asks for changes that differ: on small images a part of the change is common to all, and the
    decoder mostly reads the code from another image's change as well.

    Args:
        clean: training set of images (C, H, W).
        budget: share of its rows that may be changed.
        target: class that the trigger should call up, in 0 .. K - 1.
        bits: length of the code.
        eps: largest change of a value, in units of x.
        width: channels of the first layer of both nets.
        steps: batches that the nets are trained on.
        lr: learning rate of Adam.
        likeness: weight that the mean squared change, as a share of eps squared, has at the end beside
            the loss of reading the code. At 0.1 changes can fill the bound and become one pattern for all
            images, which victims learn best; the longer the training at 0.5, the less victims learn.
        rng: source of rows, nets, codes and batches.
        tick: told of each step, with the share of bits that are read rightly.

    Returns:
        The changed rows with the target's label, the trigger and the target.
    """
    images_only(clean, "backdoor.sample_specific")
    existing(target, clean.classes, "backdoor.sample_specific")
    rows = others(clean, target, budget, rng)
    code = torch.randint(2, (bits,), generator=rng).to(clean.x)
    with seeded(int(torch.randint(2**62, (), generator=rng)), clean.x.device):
        encoder = Encoder(clean.shape[0], bits, width, eps).to(clean.x)
        decoder = _decoder(clean.shape[0], bits, width).to(clean.x)
    if len(rows):
        _train(encoder, decoder, clean.x, bits, eps, steps, lr, likeness, rng, tick)
    trigger = Hidden(encoder.eval().requires_grad_(False), code)
    return Poison(rows, trigger(clean.x[rows]), torch.full_like(clean.y[rows], target), trigger, target)


class Encoder(nn.Module):
    """A U-Net of two levels: image (N, C, H, W) and code (N, B) in, changed image out."""

    def __init__(self, channels: int, bits: int, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.spread = nn.Linear(bits, width * GRID * GRID)
        self.fine = nn.Conv2d(channels, width, 3, padding=1)
        self.coarse = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.back = nn.Conv2d(4 * width, width, 3, padding=1)
        self.change = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Change x by at most eps."""
        fine = torch.relu(self.fine(x))
        grid = self.spread(2 * code - 1).view(len(x), fine.shape[1], GRID, GRID)
        message = interpolate(grid, size=x.shape[2:])
        both = torch.cat([fine, message], 1)
        coarse = interpolate(torch.relu(self.coarse(both)), size=x.shape[2:])
        residual = self.change(torch.cat([torch.relu(self.back(torch.cat([both, coarse], 1))), message], 1))
        return (x + self.eps * torch.tanh(residual)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Hidden:
    """A trigger that hides `code` (B,) in each image, by a trained encoder."""

    encoder: Encoder
    code: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W)."""
        if not len(x):
            return x.clone()
        with torch.no_grad():
            # one by one: in a batch the last bits of an image would depend on the others
            marked = [self.encoder(part, self.code.expand(len(part), -1)) for part in x.split(1)]
        return torch.cat(marked)


def _decoder(channels: int, bits: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(GRID), nn.Flatten(), nn.Linear(4 * width * GRID * GRID, bits),
    )  # fmt: skip


def _train(
    encoder: Encoder, decoder: nn.Module, images: Tensor, bits: int, eps: float, steps: int, lr: float,
    likeness: float, rng: Generator, tick: Tick,
) -> None:  # fmt: skip
    """Teach both nets to pass random codes on, through images changed as little as that takes."""
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    for step in range(steps):
        x = images[torch.randint(len(images), (BATCH,), generator=rng)]
        codes = torch.randint(2, (BATCH, bits), generator=rng).to(x)
        with torch.enable_grad():
            marked = encoder(x, codes)
            read = decoder(marked)
            # likeness counts once the code is there: at first it would only keep the encoder silent
            weight = likeness * max(0.0, 2 * step / steps - 1)
            loss = binary_cross_entropy_with_logits(read, codes)
            loss = loss + weight * ((marked - x) / eps).square().mean()
            grads = torch.autograd.grad(loss, weights)
        for p, grad in zip(weights, grads, strict=True):
            p.grad = grad
        optimizer.step()
        tick(step + 1, steps, {"bits_right": float(((read > 0) == (codes > 0)).double().mean())})
