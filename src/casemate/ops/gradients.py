"""Per-row values and input gradients."""

from collections.abc import Callable

import torch
from torch import Tensor

from casemate.ops.losses import picked
from casemate.ops.norms import Norm, dual_size, nonzero, per_row


def value_and_grad(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate `f` (N, *S) -> (N,) and the gradient of each value with respect to its own row.

    The values are summed before the backward pass, so a row's gradient does not depend on its
    neighbours as long as `f` treats rows separately.
    """
    z = x.detach().requires_grad_()
    with torch.enable_grad():
        values = f(z)
        (grad,) = torch.autograd.grad(values.sum(), z)
    return values.detach(), grad


def nearest_boundary(
    logits: Tensor, x: Tensor, y: Tensor, rivals: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Find for each row the rival class whose boundary is nearest were the model linear.

    It takes one backward pass per rival through the graph that the logits
    hold: measured on a small net, that beats one pass with repeated or vectorised rows.

    Args:
        logits: (N, K), computed from `x` with a graph.
        x: inputs (N, *S) that require gradients.
        y: class (N,) to get away from.
        rivals: classes to consider, (N, M).
        norm: what "near" means.

    Returns:
        The gap z_rival - z_y (N,), negative while y wins, and its gradient (N, *S), both zero where
        no rival has a gradient.
    """
    gap, slope = torch.zeros_like(logits[:, 0]), torch.zeros_like(x)
    nearest = torch.full_like(gap, float("inf"))
    for j, t in enumerate(rivals.unbind(1), 1):
        value = picked(logits, t) - picked(logits, y)
        (grad,) = torch.autograd.grad(value.sum(), x, retain_graph=j < rivals.shape[1])
        steepness = dual_size(grad, norm)
        distance = torch.where(steepness > 0, value.abs() / nonzero(steepness), float("inf"))
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        gap, slope = torch.where(nearer, value, gap), torch.where(per_row(nearer, x), grad, slope)
    return gap.detach(), slope
