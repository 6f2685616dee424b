"""Convex combinations: points of the probability simplex, and the nearest one in a polytope."""

import torch
from torch import Tensor


def project(v: Tensor, /) -> Tensor:
    """Move v (..., M) to the nearest point with entries >= 0 that add up to 1 (Held et al. 1974)."""
    ordered = v.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    ranks = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    inside = (ordered * ranks > excess).sum(-1, keepdim=True)
    shift = excess.gather(-1, inside - 1) / inside
    return (v - shift).clamp(min=0)


def nearest_mixture(corners: Tensor, point: Tensor, start: Tensor, /, *, steps: int) -> Tensor:
    """Find coefficients of the point in a polytope that is nearest to a given one.

    Projected gradient descent, with steps of one over the largest curvature.

    Args:
        corners: (B, M, D).
        point: (B, D).
        start: coefficients (B, M) on the simplex.
        steps: number of steps.

    Returns:
        Coefficients (B, M) on the simplex.
    """
    products = corners @ corners.mT
    towards = (corners @ point[..., None])[..., 0]
    most = torch.linalg.matrix_norm(products, ord=2)
    length = torch.where(most > 0, 1 / most.where(most > 0, torch.ones_like(most)), 0.0)[..., None]
    mixed = start
    for _ in range(steps):
        slope = (products @ mixed[..., None])[..., 0] - towards
        mixed = project(mixed - length * slope)
    return mixed
