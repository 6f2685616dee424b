"""Per-row values and input gradients."""

from collections.abc import Callable

import torch
from torch import Tensor


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
