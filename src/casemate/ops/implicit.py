"""Gradients through a maximiser, by the implicit function theorem."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def hypergradient(
    outer: Tensor, moved: Callable[[], Tensor], delta: Tensor, weights: Sequence[Tensor], iterations: int
) -> list[Tensor]:
    """Differentiate a loss by weights that delta, a fixed point of `moved`, follows.

    With J the derivative of `moved` by delta, d outer / d weights is the direct part plus that of `moved` by
    the weights, times v = (1 - J)^-1 d outer / d delta. The first terms of the series of v are summed.

    Args:
        outer: loss with a graph, a scalar.
        moved: makes one step of the inner maximisation from `delta`, with a graph.
        delta: perturbations (M, *S) that ask for a gradient.
        weights: what to differentiate by.
        iterations: terms of the series; 0 gives the direct part.

    Returns:
        One gradient for each weight.
    """
    direct = torch.autograd.grad(outer, [*weights, delta], allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, direct[:-1], strict=True)]
    pull = direct[-1]
    if not iterations or pull is None:
        return found
    after, v = moved(), pull
    for _ in range(iterations - 1):
        (back,) = torch.autograd.grad(after, delta, v, retain_graph=True)
        v = back + pull
    by_weights = torch.autograd.grad(after, list(weights), v, allow_unused=True)
    return [g if more is None else g + more for g, more in zip(found, by_weights, strict=True)]
