"""Influence functions (Koh & Liang 2017) of a logistic head, exact and approximate.

What one training row does to the trained weights is, to first order, 1/N times the inverse of the
loss's Hessian H times the row's gradient.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor

from casemate.ops.logistic import hessian, row_gradients, scores, with_ones

Inverse = Literal["exact", "cg", "ekfac"]


def solve(
    features: Tensor, weights: Tensor, vectors: Tensor, /, *, l2: float, inverse: Inverse = "exact"
) -> Tensor:
    """Multiply vectors by the inverse Hessian of T heads side by side.

    Args:
        features: training features (T, N, D), float64.
        weights: trained weights (T, K, D + 1), float64.
        vectors: (T, K, D + 1), float64.
        l2: weight of the squares in the loss, > 0; it is what damps the inverse.
        inverse: "exact" factors the matrix (Cholesky), of P = K * (D + 1) columns; "cg" needs only its
            products with vectors; "ekfac" replaces the data's part of it by a Kronecker product
            with its eigenvalues corrected (George et al. 2018), for heads too large for either.

    Returns:
        The products (T, K, D + 1).
    """
    match inverse:
        case "exact":
            factor = torch.linalg.cholesky(hessian(features, weights, l2=l2))
            return torch.cholesky_solve(vectors.flatten(1)[..., None], factor).view_as(vectors)
        case "cg":
            return _conjugate_gradients(features, weights, vectors, l2)
        case "ekfac":
            return _ekfac(features, weights, vectors, l2)
    assert_never(inverse)


def leave_one_out(
    features: Tensor, y: Tensor, weights: Tensor, probe: Tensor, wish: Tensor, /, *, l2: float,
    inverse: Inverse = "exact",
) -> Tensor:  # fmt: skip
    """Predict by how much a probe's loss changes when each training row is left out.

    Args:
        features: training features (T, N, D), float64.
        y: training labels (T, N).
        weights: trained weights (T, K, D + 1), float64.
        probe: features (T, D) of one probe per head.
        wish: labels (T,) by which the probes' loss is measured.
        l2: weight of the squares in the loss, > 0.
        inverse: see `solve`.

    Returns:
        Changes of the loss (T, N), in nats.
    """
    along = solve(features, weights, probe_gradient(probe, wish, weights), l2=l2, inverse=inverse)
    off = row_gradients(features, y, weights)
    return (off * (with_ones(features) @ along.mT)).sum(-1) / features.shape[1]


def probe_gradient(probe: Tensor, wish: Tensor, weights: Tensor, /) -> Tensor:
    """Differentiate the loss of probes (T, D) with labels `wish` (T,) by the weights: (T, K, D + 1)."""
    off = row_gradients(probe[:, None], wish[:, None], weights)
    return off.mT @ with_ones(probe[:, None])


def _conjugate_gradients(features: Tensor, weights: Tensor, vectors: Tensor, l2: float) -> Tensor:
    """Solve T systems side by side; those that are solved stay as they are."""
    inputs, p = with_ones(features), scores(features, weights).softmax(-1)

    def times(v: Tensor) -> Tensor:
        moved = inputs @ v.mT
        curved = p * (moved - (p * moved).sum(-1, keepdim=True))
        return curved.mT @ inputs / inputs.shape[1] + l2 * v

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((-2, -1), keepdim=True)

    found, rest = torch.zeros_like(vectors), vectors.clone()
    along, size = rest.clone(), dot(rest, rest)
    enough = 1e-20 * size
    for _ in range(2 * vectors[0].numel() if len(vectors) else 0):
        todo = size > enough
        if not bool(todo.any()):
            break
        image = times(along)
        length = torch.where(todo, size / dot(along, image).where(todo, torch.ones_like(size)), 0.0)
        found, rest = found + length * along, rest - length * image
        before, size = size, dot(rest, rest)
        along = rest + torch.where(todo, size / before.where(todo, torch.ones_like(size)), 0.0) * along
    return found


def _ekfac(features: Tensor, weights: Tensor, vectors: Tensor, l2: float) -> Tensor:
    """Invert in the eigenbases of the mean outer products of inputs and of gradients by the logits."""
    inputs, p = with_ones(features), scores(features, weights).softmax(-1)
    n = inputs.shape[1]
    # gradients by the logits have this covariance if labels are drawn from the model's own answers
    spread = torch.diag_embed(p) - p[..., None] * p[..., None, :]  # (T, N, K, K)
    _, u = torch.linalg.eigh(spread.mean(1))
    _, v = torch.linalg.eigh(inputs.mT @ inputs / n)
    gradients = torch.einsum("tka,tnkl,tla->tna", u, spread, u)
    values = gradients.mT @ (inputs @ v).square() / n
    found: Tensor = u @ ((u.mT @ vectors @ v) / (values + l2)) @ v.mT
    return found
