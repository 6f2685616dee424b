"""Gradients for examples that are to fool a model never seen: taken over altered copies, or smoothed.

Iterative attacks differ in what they do with a gradient; these ways of taking one combine with each of
them and with one another:

    di  (Xie et al. 2019)   the picture, made smaller and put at a random place, at times
    si  (Lin et al. 2020)   the picture at 1, 1/2, 1/4 ... of its brightness
    ti  (Dong et al. 2019)  a gradient blurred, as if it were the mean over shifted pictures

Cutting pictures into blocks that are shuffled and turned is a further one, which only its own method uses.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss
from casemate.ops.blocks import draws_of, looked_up, origins
from casemate.ops.resizing import squeezing
from casemate.ops.rng import RowGenerator

PROBABILITY, SMALLEST, KERNEL, COPIES = 0.5, 0.85, 7, 5


class Shown(NamedTuple):
    """A picture as it is shown to the model, and the way `back` of a gradient there to the one that was altered."""

    picture: Tensor
    back: Callable[[Tensor], Tensor]


Look = Callable[[Tensor, RowGenerator], Iterable[Shown]]
Blur = Callable[[Tensor], Tensor]


class Sight(NamedTuple):
    """Ways of taking a gradient: `looks` alter the input, one copy into several; `blurs` alter the gradient."""

    looks: tuple[Look, ...] = ()
    blurs: tuple[Blur, ...] = ()


def _known(names: str) -> str:
    said = [name.strip() for name in names.split(",")] if names else []
    if len(set(said)) < len(said) or not set(said) <= {"di", "si", "ti"}:
        raise ValueError("must be some of di, si, ti between commas, each at most once")
    return ",".join(said)


# names of ways between commas, such as "di,ti"; "" for the plain gradient
Views = Annotated[str, AfterValidator(_known)]


def sight(views: str, own: Sight | None = None) -> Sight:
    """Give the ways that are named, with their customary settings, after a method's own way."""
    looks, blurs = own or Sight()
    for name in views.split(",") if views else []:
        match name:
            case "di":
                looks += (diverse(PROBABILITY, SMALLEST),)
            case "si":
                looks += (scaled(COPIES),)
            case "ti":
                blurs += (blurred(KERNEL),)
    return Sight(looks, blurs)


def passes(views: str) -> int:
    """Count the passes that one gradient costs."""
    return COPIES if "si" in views else 1


def gradient(
    oracle: GradientOracle, x: Tensor, goal: Goal, loss: Loss, rng: RowGenerator, seen: Sight
) -> tuple[Tensor, Tensor]:
    """Take the gradient of the goal's loss at x (N, *S) as it is `seen`.

    Args:
        oracle: access to the model whose gradient is taken.
        x: inputs (N, *S).
        goal: what the adversary wants of each row.
        loss: which of the goal's losses is climbed.
        rng: source of what the ways draw, one stream per row.
        seen: ways of taking the gradient.

    Returns:
        The mean loss over the copies (N,), and its gradient (N, *S).
    """
    values: list[Tensor] = []
    grad = x.new_zeros(())
    for copy in _shown(Shown(x.detach(), lambda slope: slope), seen.looks, rng):
        found = oracle.gradient(copy.picture, goal, loss)
        values.append(found.loss)
        # the oracle counts the passes through the model; the way back through the views costs none
        grad = grad + copy.back(found.grad)
    grad = grad / len(values)
    for blur in seen.blurs:
        grad = blur(grad)
    return torch.stack(values).mean(0), grad


def _shown(copy: Shown, looks: tuple[Look, ...], rng: RowGenerator) -> Iterator[Shown]:
    """Look at a copy in the first of the ways, at what that shows in the second, and so on."""
    if not looks:
        yield copy
        return
    for part in looks[0](copy.picture, rng):
        # the ways are linear in the picture: gradients go back through each in turn
        yield from _shown(Shown(part.picture, _chained(part.back, copy.back)), looks[1:], rng)


def _chained(
    first: Callable[[Tensor], Tensor], then: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    return lambda slope: then(first(slope))


def diverse(probability: float, smallest: float) -> Look:
    """Show a picture smaller and at a random place, with a probability (see `shrunk`)."""

    def look(x: Tensor, rng: RowGenerator) -> list[Shown]:
        _pictures(x, "di")
        draws = rng.uniform(4).to(x)
        rows = (draws[:, 0] < probability).nonzero().flatten()
        _, share, top, left = draws.index_select(0, rows).unbind(1)
        down, across = squeezing(x, smallest + (1 - smallest) * share, top, left)
        picture = x.index_copy(0, rows, down @ x.index_select(0, rows) @ across.mT)
        return [Shown(picture, lambda g: g.index_copy(0, rows, down.mT @ g.index_select(0, rows) @ across))]

    return look


def scaled(copies: int) -> Look:
    """Show an input as it is and at a half, a quarter ... of its values."""
    return lambda x, rng: (Shown(x / 2**i, partial(_divided, 2**i)) for i in range(copies))


def _divided(by: float, slope: Tensor) -> Tensor:
    return slope / by


def shuffled(copies: int, blocks: int, degrees: float) -> Look:
    """Show several copies of a picture, each cut into blocks that change places and turn a little."""

    def look(x: Tensor, rng: RowGenerator) -> Iterator[Shown]:
        _pictures(x, "bsr")
        draws = rng.uniform(copies, draws_of(blocks)).to(x)
        for grid in origins(draws, (x.shape[2], x.shape[3]), blocks, degrees):
            yield traced(partial(looked_up, grid=grid), x)

    return look


def traced(alter: Callable[[Tensor], Tensor], x: Tensor) -> Shown:
    """Show a picture altered in any way: the way back leads through torch's graph."""
    z = x.detach().requires_grad_()
    with torch.enable_grad():
        picture = alter(z)

    def back(slope: Tensor) -> Tensor:
        # a view after this one comes back this way with each of its copies
        (found,) = torch.autograd.grad(picture, z, slope, retain_graph=True)
        return found

    return Shown(picture.detach(), back)


def blurred(kernel: int) -> Blur:
    """Blur gradients of pictures with a Gaussian kernel that reaches three deviations to each side."""

    def blur(grad: Tensor) -> Tensor:
        _pictures(grad, "ti")
        down, across = (_band(kernel, side, grad.dtype, grad.device) for side in grad.shape[2:])
        # as matrices: libraries take longer for a convolution of so few channels
        return down @ grad @ across

    return blur


@lru_cache(maxsize=8)
def _band(kernel: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Symmetric matrix (side, side) that convolves with a Gaussian line, with zeros around."""
    # as in the paper's code: the outermost weight is that of three deviations, whatever the size
    ticks = torch.linspace(-3, 3, kernel, dtype=dtype, device=device)
    line = (-ticks.square() / 2).exp() if kernel > 1 else torch.ones_like(ticks)
    line = line / line.sum()
    at = torch.arange(side, device=line.device)
    offset = at - at[:, None] + len(line) // 2
    known = (offset >= 0) & (offset < len(line))
    return line[offset.clamp(0, len(line) - 1)] * known.to(line)


def _pictures(x: Tensor, name: str) -> None:
    if x.dim() != 4:
        raise NotApplicable(
            f"'{name}' works on pictures (C, H, W), not on inputs of shape {tuple(x.shape[1:])}"
        )
