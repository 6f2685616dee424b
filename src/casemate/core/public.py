"""Pictures that anybody has: what an adversary sets a class against without rows of the others."""

from typing import Literal, assert_never

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

FIGURES = 6  # kinds
Public = Literal["digits", "figures"]


def pictures(public: Public, shape: tuple[int, ...], count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw pictures of a name: `handwriting` or `figures`, as they are described there."""
    match public:
        case "digits":
            return handwriting(shape, count, rng)
        case "figures":
            return figures(shape, count, rng)
    assert_never(public)


def shared(public: Tensor, x: Tensor) -> int:
    """Count the rows of x (N, *S) that are among the public pictures (M, *S), value for value."""
    known = {row.tobytes() for row in public.to(x).cpu().numpy()}
    return sum(row.tobytes() in known for row in x.cpu().numpy())


def handwriting(shape: tuple[int, ...], count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw from the digits that come with scikit-learn, enlarged, the same in all channels.

    Args:
        shape: (C, H, W) of one picture.
        count: number of pictures; there are 1,797 at most.
        rng: source of the choice.

    Returns:
        Pictures (N, C, H, W) in [0, 1], and the digit of each (N,).
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    chosen = torch.randperm(len(y), generator=rng)[:count]
    images = torch.from_numpy(x).float()[chosen].view(-1, 1, 8, 8) / 16
    large = interpolate(images, size=shape[1:], mode="bilinear")
    return large.expand(-1, *shape).contiguous(), torch.from_numpy(y).long()[chosen]


def figures(shape: tuple[int, ...], count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw discs, squares, diamonds, rings and two kinds of bars, each in two colours.

    Args:
        shape: (C, H, W) of one picture.
        count: number of pictures.
        rng: source of places, sizes and colours.

    Returns:
        Pictures (N, C, H, W) in [0, 1], and the kind of each (N,).
    """
    kinds = torch.arange(count) % FIGURES
    place, size = torch.rand(count, 2, 1, 1, generator=rng) - 0.5, torch.rand(count, 1, 1, generator=rng)
    v = torch.linspace(-1, 1, shape[1])[:, None] - place[:, 0]
    u = torch.linspace(-1, 1, shape[2])[None] - place[:, 1]
    u, v, radius = u.expand(-1, shape[1], -1), v.expand(-1, -1, shape[2]), 0.3 + 0.4 * size
    round_, waves = (u.square() + v.square()).sqrt(), 6 + 12 * size
    masks = [
        round_ < radius, torch.maximum(u.abs(), v.abs()) < radius, u.abs() + v.abs() < radius,
        (round_ - radius).abs() < 0.15, (waves * v).sin() > 0, (waves * u).sin() > 0,
    ]  # fmt: skip
    inside = torch.stack(masks)[kinds, torch.arange(count)][:, None]
    ink, ground = torch.rand(2, count, shape[0], 1, 1, generator=rng)
    return torch.where(inside, ink, ground), kinds
