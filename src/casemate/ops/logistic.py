"""Multinomial logistic regression on given features: the convex head of a net, many at a time.

The loss of weights w (K, D + 1), whose last column is the bias, is the mean cross-entropy plus
l2 / 2 times the sum of squares of all weights. Without l2 > 0 the minimum is not unique.
"""

import torch
from torch import Tensor


def with_ones(features: Tensor, /) -> Tensor:
    """Append a one to features (..., D) for the bias: (..., D + 1)."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)


def scores(features: Tensor, weights: Tensor, /) -> Tensor:
    """Compute logits (..., N, K) of features (..., N, D) under weights (..., K, D + 1)."""
    return with_ones(features) @ weights.mT


def loss(features: Tensor, y: Tensor, weights: Tensor, /, *, l2: float) -> Tensor:
    """Compute the regularised mean loss (T,) on features (T, N, D) with labels y (T, N)."""
    told = scores(features, weights).log_softmax(-1).gather(-1, y[..., None])[..., 0]
    return -told.mean(-1) + l2 / 2 * weights.square().sum((-2, -1))


def row_gradients(features: Tensor, y: Tensor, weights: Tensor, /) -> Tensor:
    """Differentiate each row's cross-entropy by the logits: (..., N, K), whose product with the features is the gradient."""
    off = scores(features, weights).softmax(-1)
    return off - torch.nn.functional.one_hot(y, off.shape[-1]).to(off.dtype)


def gradient(features: Tensor, y: Tensor, weights: Tensor, /, *, l2: float) -> Tensor:
    """Differentiate `loss` by the weights: (T, K, D + 1)."""
    off = row_gradients(features, y, weights)
    return off.mT @ with_ones(features) / features.shape[-2] + l2 * weights


def hessian(features: Tensor, weights: Tensor, /, *, l2: float) -> Tensor:
    """Differentiate `loss` twice by the flattened weights: (T, P, P) for P = K * (D + 1)."""
    inputs, p = with_ones(features), scores(features, weights).softmax(-1)
    (many, n, d), k = inputs.shape, p.shape[-1]
    found = inputs.new_zeros(many, k, d, k, d)
    for a in range(k):
        for b in range(a + 1):
            share = p[..., a] * ((1.0 if a == b else 0.0) - p[..., b])
            block = (inputs * share[..., None]).mT @ inputs / n
            found[:, a, :, b], found[:, b, :, a] = block, block
    flat = found.view(many, k * d, k * d)
    return flat + l2 * torch.eye(k * d, dtype=flat.dtype, device=flat.device)


def fit(
    features: Tensor,
    y: Tensor,
    classes: int,
    /,
    *,
    l2: float,
    start: Tensor | None = None,
    steps: int = 50,
    tolerance: float = 1e-9,
) -> Tensor:
    """Minimise `loss` for T problems side by side by Newton's method with halved steps, in float64.

    Args:
        features: (T, N, D), of any floating type.
        y: labels (T, N) in 0 .. classes - 1.
        classes: number of classes K.
        l2: weight of the squares, > 0.
        start: weights (T, K, D + 1) to begin from; None means zeros.
        steps: most Newton steps.
        tolerance: largest entry of the gradient at which a problem counts as solved.

    Returns:
        Weights (T, K, D + 1), float64.
    """
    features = features.double()
    many, _, d = features.shape
    weights = features.new_zeros(many, classes, d + 1) if start is None else start.double()
    for _ in range(steps):
        slope = gradient(features, y, weights, l2=l2)
        if not many or float(slope.abs().max()) <= tolerance:
            break
        factor = torch.linalg.cholesky(hessian(features, weights, l2=l2))
        move = torch.cholesky_solve(slope.view(many, -1, 1), factor).view_as(weights)
        weights = weights - _length(features, y, weights, slope, move, l2)[:, None, None] * move
    return weights


def _length(features: Tensor, y: Tensor, weights: Tensor, slope: Tensor, move: Tensor, l2: float) -> Tensor:
    """Halve each problem's step (T,) until its loss falls by a share of what the slope promises."""
    now, promised = loss(features, y, weights, l2=l2), (slope * move).sum((-2, -1))
    length = torch.ones_like(now)
    for _ in range(30):
        then = loss(features, y, weights - length[:, None, None] * move, l2=l2)
        # close to the minimum the fall is below the rounding of the loss
        short = then > now - 1e-4 * length * promised + 1e-14
        if not bool(short.any()):
            break
        length = torch.where(short, length / 2, length)
    return length
