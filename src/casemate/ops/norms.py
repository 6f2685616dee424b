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


def steepest(grad: Tensor, norm: Norm, share: float = 0.0) -> Tensor:
    """Direction of unit `norm` along which each row of `grad` (N, *S) promises most.

    A row whose gradient is exactly zero does not move, nor does an entry that is no number. Rows are
    scaled by their largest entry first, so a gradient of 1e-30 steers as well as one of 1:
    `steepest(c * g) = steepest(g)`.
    In l1 and l0 the best direction is a single coordinate; `share` > 0 spreads it evenly over that
    share of the coordinates with the largest gradients, which l1 attacks need to get on.
    """
    match norm:
        case "linf":
            return grad.sign()
        case "l2":
            unit = _largest_is_one(grad)
            return unit / nonzero(per_row(size(unit, "l2"), unit))
        case "l1" | "l0":
            flat = grad.flatten(1)
            best = flat.abs().topk(max(1, int(share * flat.shape[1])), 1).indices
            signs = flat.gather(1, best).sign()
            signs = signs / nonzero(signs.abs().sum(1, keepdim=True))
            return torch.zeros_like(flat).scatter(1, best, signs).view_as(grad)
    assert_never(norm)


def mean_scaled(grad: Tensor) -> Tensor:
    """Scale each row of `grad` (N, *S) to a mean absolute value of 1; zero rows stay zero."""
    unit = _largest_is_one(grad)
    return unit / nonzero(per_row(unit.flatten(1).abs().mean(1), unit))


def _largest_is_one(grad: Tensor) -> Tensor:
    """Divide each row by its largest entry; what is no number becomes zero, as its sign is."""
    known = grad.nan_to_num(0, 0, 0)
    return known / nonzero(per_row(size(known, "linf"), known))


def inward(grad: Tensor, x: Tensor) -> Tensor:
    """Zero the entries of `grad` (N, *S) that push a value of `x` at an edge of [0, 1] outwards."""
    moved = torch.add(x, grad.sign(), alpha=0.5).clamp_(0, 1)
    return grad * moved.ne_(x)


def linear_optimum(x: Tensor, grad: Tensor, norm: Norm, eps: float) -> Tensor:
    """Point of the ball around x (N, *S) and the box [0, 1] that lies farthest along `grad`.

    Maximises <grad, x' - x> exactly: linf moves every value by eps or to its edge; l1 moves the
    values with the largest gradients to their edges until the radius is spent, l0 the positions
    with the largest gains; l2 is eps * grad / |grad| where no edge is near, else |delta_i| =
    min(lambda |g_i|, room_i) with the lambda that spends the radius.
    """
    flat, at = grad.flatten(1), x.flatten(1)
    pull = flat.abs() / nonzero(size(flat, "linf"))[:, None]
    room = torch.where(flat > 0, 1 - at, at) * (pull > 0)
    match norm:
        case "linf":
            delta = room.clamp(max=eps)
        case "l2":
            delta = _fill_l2(pull, room, eps)
        case "l1":
            order = pull.argsort(1, descending=True)
            sorted_room = room.gather(1, order)
            spent = sorted_room.cumsum(1) - sorted_room
            delta = torch.zeros_like(room).scatter(1, order, (eps - spent).clamp(min=0).minimum(sorted_room))
        case "l0":
            gain = (pull * room).view_as(x)
            delta = room * _largest(gain, eps).expand_as(x).flatten(1)
        case _:
            assert_never(norm)
    return (at + delta * flat.sign()).view_as(x).clamp(0, 1)


def _fill_l2(pull: Tensor, room: Tensor, eps: float) -> Tensor:
    """Sizes min(lambda * pull, room) with the lambda at which their l2 size is eps."""
    kinks, order = torch.where(pull > 0, room / nonzero(pull), float("inf")).sort(1)
    full = room.gather(1, order).square()
    rest = pull.gather(1, order).square().flip(1).cumsum(1).flip(1)
    before = full.cumsum(1) - full  # spent by the values that reach their edges before this one
    factor = ((eps**2 - before).clamp(min=0) / nonzero(rest)).sqrt()
    # the k-th kink comes too late: lambda lies before it, and after all earlier kinks
    k = (factor <= kinks).int().argmax(1, keepdim=True)
    enough = full.sum(1, keepdim=True) <= eps**2
    return torch.where(enough, room, (factor.gather(1, k) * pull).minimum(room))


def dual_size(grad: Tensor, norm: Norm) -> Tensor:
    """Measure how much a step of unit `norm` can gain along each row of `grad` (N, *S), (N,).

    An l0 step is one position, a whole pixel for images, moved by at most 1.
    """
    match norm:
        case "linf":
            return size(grad, "l1")
        case "l2":
            return size(grad, "l2")
        case "l1":
            return size(grad, "linf")
        case "l0":
            places = grad.abs().sum(1, keepdim=True) if grad.dim() == 4 else grad
            return size(places, "linf")
    assert_never(norm)


def reach(x: Tensor, grad: Tensor, gain: Tensor, norm: Norm) -> Tensor:
    """Smallest step from each row of x (N, *S) that gains `gain` (N,) along `grad` inside [0, 1].

    Minimises |delta| in `norm` (not l0) subject to <grad, delta> = gain >= 0 and 0 <= x + delta <= 1,
    exactly: |delta_i| = min(t * p_i, room_i) with p_i = 1 for linf and |grad_i| for l2; l1 moves the
    values with the largest gradients to their edges. Where the box holds no such point, the step
    goes to the corner that gains most.
    """
    flat, at = grad.flatten(1).nan_to_num(0, 0, 0), x.flatten(1)
    scale = nonzero(size(flat, "linf"))
    pull, gain = flat.abs() / scale[:, None], (gain.nan_to_num(0) / scale)[:, None]
    room = torch.where(flat > 0, 1 - at, at) * (pull > 0)
    match norm:
        case "linf":
            delta = _raise(torch.ones_like(pull), pull, room, gain)
        case "l2":
            delta = _raise(pull, pull, room, gain)
        case "l1":
            order = pull.argsort(1, descending=True)
            full = (pull * room).gather(1, order)
            left = (gain - (full.cumsum(1) - full)).clamp(min=0)
            part = (left / nonzero(pull.gather(1, order))).minimum(room.gather(1, order))
            delta = torch.zeros_like(room).scatter(1, order, part)
        case "l0":
            raise ValueError("reach knows linf, l2 and l1; an l0 step has no such form")
        case _:
            assert_never(norm)
    return (delta * flat.sign()).view_as(x)


def _raise(pace: Tensor, pull: Tensor, room: Tensor, gain: Tensor) -> Tensor:
    """Sizes min(t * pace, room), (N, D), at the least t >= 0 where they gain `gain` (N, 1).

    The gain sum_i pull_i * min(t * pace_i, room_i) is concave in t, so Newton's steps from the left
    never overshoot and end at the solution after a few changes of the set that is still moving.
    """
    last = torch.where(pull > 0, room / nonzero(pace), 0)  # t at which a value reaches its edge
    slope, full = pull * pace, pull * room
    t = torch.zeros_like(gain)
    while True:
        moving = last > t
        rest = (slope * moving).sum(1, keepdim=True)
        later = torch.where(
            rest > 0, (gain - (full * ~moving).sum(1, keepdim=True)) / nonzero(rest), float("inf")
        )
        if not bool((later > t).any()):
            return torch.where(moving, t * pace, room)
        t = torch.maximum(t, later)


def nonzero(values: Tensor) -> Tensor:
    """Replace exact zeros by one, so that a division leaves a zero numerator zero."""
    return torch.where(values == 0, torch.ones_like(values), values)


def project(x_adv: Tensor, x: Tensor, norm: Norm, eps: float | Tensor) -> Tensor:
    """Bring candidates (N, *S) into the ball of radius `eps` around `x` and into [0, 1].

    Exact nearest point for linf and l1 (ball and box together); for l2 and l0 the ball first and
    the box after, which stays in both. `eps` is one radius or one for each row (N,); an infinite
    one leaves only the box.
    """
    if not isinstance(eps, Tensor) and eps == float("inf"):
        return x_adv.clamp(0, 1)
    radius = per_row(eps, x) if isinstance(eps, Tensor) else eps
    match norm:
        case "linf":
            return torch.minimum(torch.maximum(x_adv, x - radius), x + radius).clamp(0, 1)
        case "l2":
            delta = x_adv - x
            length = per_row(size(delta, "l2"), delta)
            shrink = torch.where(length > radius, radius / nonzero(length), torch.ones_like(length))
            return (x + delta * shrink).clamp(0, 1)
        case "l1":
            return _project_l1_box(x_adv, x, eps)
        case "l0":
            delta = x_adv - x
            return (x + delta * _largest(delta.abs(), eps)).clamp(0, 1)
    assert_never(norm)


def shrink(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """Bring perturbations (N, *S) into the ball of radius `eps`, with no box around any input.

    The exact nearest point in every norm. For what is added to many inputs, whose boxes differ.
    """
    match norm:
        case "linf":
            return delta.clamp(-eps, eps)
        case "l2":
            length = per_row(size(delta, "l2"), delta)
            return delta * torch.where(length > eps, eps / nonzero(length), torch.ones_like(length))
        case "l1":
            flat = delta.flatten(1)
            kept = (flat.abs() - _threshold(flat.abs(), flat.abs(), eps)).clamp(min=0)
            # what rounding put over the radius goes, so that a radius of zero leaves nothing
            kept = kept * (eps / nonzero(kept.sum(1, keepdim=True))).clamp(max=1)
            return (kept * flat.sign()).view_as(delta)
        case "l0":
            return delta * _largest(delta.abs(), eps)
    assert_never(norm)


def _project_l1_box(x_adv: Tensor, x: Tensor, eps: float | Tensor) -> Tensor:
    """Nearest point in the l1 ball and the box: |delta_i| = clip(|d_i| - t, 0, room_i).

    The threshold t >= 0 makes the sizes sum to the radius, or is 0 where the box alone brings them
    below it (Croce & Hein 2021, "Mind the box", proposition 2.1).
    """
    delta = (x_adv - x).flatten(1)
    flat, sizes = x.flatten(1), delta.abs()
    radius = eps[:, None] if isinstance(eps, Tensor) else eps
    room = torch.where(delta > 0, 1 - flat, flat)
    kept = (sizes - _threshold(sizes, room, radius)).clamp_(min=0).minimum(room)
    # float32 sums of many terms drift: pull back what rounding put over the radius
    kept = kept * (radius / nonzero(kept.sum(1, keepdim=True))).clamp(max=1)
    return (flat + kept.copysign(delta)).view_as(x).clamp_(0, 1)


def _threshold(sizes: Tensor, room: Tensor, radius: float | Tensor) -> Tensor:
    """Least t >= 0 (N, 1) with sum_i clip(sizes_i - t, 0, room_i) <= radius.

    The sum is piecewise linear and falls in t. Newton's steps are exact once they are on the right
    piece; where one leaves the bracket or is not half as long as the one before, the bracket is
    halved instead, because between two pieces Newton can go back and forth for ever. Sorting the
    kinks, as the paper does, takes three times as long.
    """
    low = t = torch.zeros_like(sizes[:, :1])
    top = high = sizes.amax(1, keepdim=True) if sizes.shape[1] else t
    close, still = torch.finfo(t.dtype).eps * top, torch.zeros_like(t, dtype=torch.bool)
    sizes = torch.where(sizes > 0, sizes, -1)  # what did not change never counts as falling
    stride = torch.full_like(t, float("inf"))
    for _ in range(128):  # halving every other time would reach float64's precision
        left = sizes - t
        kept = left.clamp(min=0).minimum(room)
        over = kept.sum(1, keepdim=True) - radius
        # in floating point: torch takes several times as long for comparisons that give booleans
        falling = kept.eq_(left).sum(1, keepdim=True)
        outside = over > 0
        low, high = torch.where(outside, t, low), torch.where(outside, high, t)
        # where nothing falls the step is infinite or no number, and so is not taken
        newton = t + over / falling
        inside = (newton >= low) & (newton <= high) & ((newton - t).abs() <= stride / 2)
        # a row that has arrived stays, so that its last bits do not depend on its neighbours
        last, t = t, torch.where(still, t, torch.where(inside, newton, (low + high) / 2))
        stride = (t - last).abs()
        still = still | (stride <= close)
        if bool(still.all()):
            break
    return t


def _largest(strength: Tensor, eps: float | Tensor) -> Tensor:
    """Mark with 1 the int(eps) strongest positions of each row: pixels for images, else features."""
    places = strength.sum(1, keepdim=True) if strength.dim() == 4 else strength
    flat = places.flatten(1)
    if isinstance(eps, Tensor):
        rank = flat.argsort(stable=True, dim=1, descending=True).argsort(1)
        return (rank < eps.floor()[:, None]).to(flat).view_as(places)
    count = int(min(eps, flat.shape[1]))
    return torch.zeros_like(flat).scatter(1, flat.topk(count, 1).indices, 1.0).view_as(places)


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
            # in float64, because a draw near 1 rounds to 1 in bfloat16, and its logarithm is infinite
            flat = -(1 - rng.uniform(shape.numel() + 1).double()).log()
            share = (flat[:, :-1] / flat.sum(1, keepdim=True)).to(x)
            return (share * rng.sign(shape.numel()).to(x)).view_as(x) * eps
        case "l0":
            places = (1, *shape[1:]) if x.dim() == 4 else shape
            return (rng.uniform(*shape).to(x) - x) * _largest(rng.uniform(*places).to(x), eps)
    assert_never(norm)
