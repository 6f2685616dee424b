"""The small networks that generators are made of, for images whose sides are multiples of four."""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

Tick = Callable[[int, int, Mapping[str, float]], None]
REPORT_EVERY = 25  # steps between two ticks: reading a loss waits for the device


def silent(step: int, total: int, values: Mapping[str, float], /) -> None:
    """Say nothing of a step."""


def fresh(make: Callable[[], nn.Module], rng: Generator) -> nn.Module:
    """Build a net whose first weights come from `rng`; the global generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        return make()


def decoder(codes: int, shape: tuple[int, ...], width: int) -> nn.Sequential:
    """Build a net from codes (N, codes) to images (N, *shape) in [0, 1].

    It goes from `width` channels at a quarter of the size to half as many at half of it.
    """
    channels, height, wide = _image(shape)
    return nn.Sequential(
        nn.Linear(codes, width * (height // 4) * (wide // 4)),
        nn.Unflatten(1, (width, height // 4, wide // 4)),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width // 2, channels, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def encoder(shape: tuple[int, ...], values: int, width: int) -> nn.Sequential:
    """Build a net from images (N, *shape) to values (N, values), without normalisation across rows.

    A gradient penalty is per row, so batch statistics have no place in it (Gulrajani et al. 2017).
    """
    channels, height, wide = _image(shape)
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(width * (height // 4) * (wide // 4), values),
    )


def penalty(critic: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, rng: Generator) -> Tensor:
    """Mean of (|gradient| - 1)^2 of a critic (N, *S) -> (N,), at random points between pairs of images."""
    mix = torch.rand(len(real), *[1] * (real.dim() - 1), generator=rng).to(real)
    between = (mix * real + (1 - mix) * made).detach().requires_grad_()
    (grad,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # the tiny summand keeps the root's own gradient finite where a critic is flat
    size = (grad.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (size - 1).square().mean()


def batch(x: Tensor, rows: int, rng: Generator) -> Tensor:
    """Draw row numbers of x, (rows,), with replacement."""
    return torch.randint(len(x), (rows,), generator=rng)


def finished(net: nn.Module) -> nn.Module:
    """Put a net in evaluation mode with constant weights."""
    return net.eval().requires_grad_(False)


def fits(shape: tuple[int, ...]) -> bool:
    """Tell whether there are networks for inputs of this shape: images whose sides are multiples of four."""
    return len(shape) == 3 and shape[1] % 4 == 0 and shape[2] % 4 == 0


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if not fits(shape):
        raise ValueError(
            f"A generator makes images (C, H, W) with sides that are multiples of 4. Got {shape}."
        )
    return shape[0], shape[1], shape[2]
