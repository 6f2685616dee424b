"""Losses of logits (N, K) and classes (N,): higher = less like the class.

All are written so that they neither change when a constant is added to the logits nor vanish when
the logits are large.
"""

import torch
from torch import Tensor

WIDE = 4.0  # gap between logits beyond which log-odds of error hardly differ from the margin


def picked(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of class `y` in each row, (N,)."""
    return logits.gather(1, y[:, None]).squeeze(1)


def others(logits: Tensor, y: Tensor) -> Tensor:
    """Logits with class `y` of each row set to minus infinity, (N, K)."""
    return logits.scatter(1, y[:, None], float("-inf"))


def error_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Log-odds that the model errs: logsumexp of the other classes minus z_y, (N,).

    Cross-entropy is softplus of this value, so per row both rise together and their gradients
    point the same way. Cross-entropy's own gradient carries the factor 1 - p_y, which float32
    rounds to 0 on a confident row; here the factor is left out, so nothing saturates.
    """
    return torch.logsumexp(others(logits, y), 1) - picked(logits, y)


def steering_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Log-odds of error whose gradient is blind to the scale of large logits, (N,).

    The value is that of `error_odds`. Between logits more than `WIDE` apart the soft maximum of the
    others is their largest, so a net whose logits are multiplied by 100 would be attacked by its
    margin alone. There the gradient is taken of a maximum as soft as it would be with the gap brought
    to `WIDE`; smaller gaps keep their gradient.
    """
    rivals, own = others(logits, y), picked(logits, y)
    heat = ((rivals.amax(1) - own).detach().abs() / WIDE).clamp(min=1)
    soft = heat * torch.logsumexp(rivals / heat[:, None], 1)
    # values of different heats cannot be compared, and attacks compare values
    return soft + (torch.logsumexp(rivals, 1) - soft).detach() - own


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus z_y, (N,); positive = misclassified."""
    return others(logits, y).amax(1) - picked(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio of Croce & Hein 2020: scale-free margin, (N,).

    With two classes the ratio's denominator equals its numerator and the gradient is zero, so the
    plain margin stands in for it.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    top = logits.topk(3, 1).values
    return margin(logits, y) / _positive(top[:, 0] - top[:, 2])


def targeted_dlr(logits: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Targeted difference of logits ratio, from class `y` towards class `t`, (N,).

    The paper's denominator needs four classes. With three, the distance of the best from the worst
    logit equals the numerator where `y` is best and `t` worst, and the gradient is zero; so with
    fewer than four the plain difference stands in for the ratio.
    """
    gap = picked(logits, t) - picked(logits, y)
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, 1).values
    return gap / _positive(top[:, 0] - top[:, 2:].mean(1))


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))
