"""Sizes, projections and steps in the Lp norms: the only file that branches on a norm."""

from typing import Literal, assert_never

import torch
from torch import Tensor

from casemate.ops.rng import RowGenerator

Norm = Literal["linf", "l2", "l1", "l0"]


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (N,) values so that they broadcast over the rows of `like` (N, *S)."""
    return values.view(-1, *[1] * (like.dim() - 1))


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Measure each row of `delta` (N, *S) in `norm`; returns (N,).

    The l0 size counts changed positions: for images (N, C, H, W) a pixel counts once however
    many of its channels changed.
    """
    flat = delta.flatten(1)
    match norm:
        case "linf":
            return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
        case "l2":
            lengths: Tensor = torch.linalg.vector_norm(flat, dim=1)
            return lengths
        case "l1":
            return flat.abs().sum(1)
        case "l0":
            changed = delta.ne(0).any(1, keepdim=True) if delta.dim() == 4 else delta.ne(0)
            return changed.flatten(1).sum(1).to(delta.dtype)
    assert_never(norm)


def rounding(x: Tensor, norm: Norm) -> float:
    """Bound the size that rounding `x + delta` to x's dtype can add, for values in [0, 1]."""
    if norm == "l0":
        return 0.0
    ulp = torch.full((1, *x.shape[1:]), torch.finfo(x.dtype).eps / 2, dtype=torch.float64)
    return float(size(ulp, norm))


def steepest(grad: Tensor, norm: Norm) -> Tensor:
    """Direction of unit `norm` along which each row of `grad` (N, *S) promises most.

    A row whose gradient is exactly zero does not move. Rows are scaled by their largest entry
    first, so a gradient of 1e-30 steers as well as one of 1: `steepest(c * g) = steepest(g)`.
    """
    match norm:
        case "linf":
            return grad.sign()
        case "l2":
            unit = grad / nonzero(per_row(size(grad, "linf"), grad))
            return unit / nonzero(per_row(size(unit, "l2"), unit))
        case "l1" | "l0":
            flat = grad.flatten(1)
            best = flat.abs().argmax(1, keepdim=True)
            return torch.zeros_like(flat).scatter(1, best, flat.gather(1, best).sign()).view_as(grad)
    assert_never(norm)


def nonzero(values: Tensor) -> Tensor:
    """Replace exact zeros by one, so that a division leaves a zero numerator zero."""
    return torch.where(values == 0, torch.ones_like(values), values)


def project(x_adv: Tensor, x: Tensor, norm: Norm, eps: float) -> Tensor:
    """Bring candidates (N, *S) into the ball of radius `eps` around `x` and into [0, 1].

    Exact nearest point for linf and l1 (ball and box together); for l2 and l0 the ball first and
    the box after, which stays in both. An infinite `eps` leaves only the box.
    """
    if eps == float("inf"):
        return x_adv.clamp(0, 1)
    match norm:
        case "linf":
            return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
        case "l2":
            delta = x_adv - x
            length = per_row(size(delta, "l2"), delta)
            shrink = torch.where(length > eps, eps / nonzero(length), torch.ones_like(length))
            return (x + delta * shrink).clamp(0, 1)
        case "l1":
            return _project_l1_box(x_adv, x, eps)
        case "l0":
            return _keep_largest(x_adv, x, int(eps)).clamp(0, 1)
    assert_never(norm)


def _project_l1_box(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Nearest point in the l1 ball and the box: |delta_i| = clip(|d_i| - t, 0, room_i).

    The threshold t >= 0 solves sum_i clip(|d_i| - t, 0, room_i) = eps; the sum is piecewise linear
    and decreasing in t, with kinks at |d_i| and |d_i| - room_i, so the kinks are sorted and t is
    interpolated (Croce & Hein 2021, "Mind the box", proposition 2.1).
    """
    delta = (x_adv - x).flatten(1)
    flat = x.flatten(1)
    size_ = delta.abs()
    room = torch.where(delta > 0, 1 - flat, flat)
    full = torch.minimum(size_, room).sum(1)
    kinks, order = torch.cat([size_, size_ - room], 1).clamp(min=0).sort(1, descending=True)
    slopes = torch.cat([torch.ones_like(size_), -torch.ones_like(size_)], 1).gather(1, order)
    # between kink k and kink k+1 the sum grows by (number of moving coordinates) * (gap)
    moving = slopes.cumsum(1)
    gaps = kinks[:, :-1] - kinks[:, 1:]
    total = torch.cat([torch.zeros_like(full)[:, None], (moving[:, :-1] * gaps).cumsum(1)], 1)
    k = (total <= eps).sum(1, keepdim=True).clamp(1, kinks.shape[1]) - 1
    over = (eps - total.gather(1, k)) / nonzero(moving.gather(1, k))
    t = (kinks.gather(1, k) - over).clamp(min=0)
    t = torch.where(full[:, None] <= eps, torch.zeros_like(t), t)
    kept = torch.minimum((size_ - t).clamp(min=0), room)
    # float32 sums of many terms drift: pull back what rounding put over the radius
    kept = kept * (eps / nonzero(kept.sum(1, keepdim=True))).clamp(max=1)
    return (flat + kept * delta.sign()).view_as(x).clamp(0, 1)


def _keep_largest(x_adv: Tensor, x: Tensor, count: int) -> Tensor:
    """Undo all but the `count` largest changes of each row (pixels for images, else features)."""
    delta = x_adv - x
    strength = delta.abs().sum(1, keepdim=True) if delta.dim() == 4 else delta.abs()
    flat = strength.flatten(1)
    keep = torch.zeros_like(flat)
    if count > 0:
        keep = keep.scatter(1, flat.topk(min(count, flat.shape[1]), dim=1).indices, 1.0)
    return x + delta * keep.view_as(strength)


def random_in_ball(x: Tensor, norm: Norm, eps: float, rng: RowGenerator) -> Tensor:
    """Draw a perturbation (N, *S) uniformly from the ball of radius `eps`, one stream per row.

    Uniform in volume for linf, l2 and l1; for l0, `eps` random positions get random values.
    """
    shape = x.shape[1:]
    match norm:
        case "linf":
            return (2 * rng.uniform(*shape).to(x) - 1) * eps
        case "l2":
            direction = steepest(rng.normal(*shape).to(x), "l2")
            radius = rng.uniform(1).to(x).flatten() ** (1 / max(1, direction[:1].numel()))
            return direction * per_row(radius, x) * eps
        case "l1":
            # exponential spacings are uniform on the simplex; the extra one gives the volume
            flat = -(1 - rng.uniform(x[:1].numel() + 1).to(x)).log()
            share = flat[:, :-1] / flat.sum(1, keepdim=True)
            return (share * rng.sign(x[:1].numel()).to(x)).view_as(x) * eps
        case "l0":
            return _keep_largest(rng.uniform(*shape).to(x) - x + x, x, int(eps)) - x
    assert_never(norm)
