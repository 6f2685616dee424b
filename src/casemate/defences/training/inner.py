"""The inner maximisation of adversarial training: short, on a whole batch, from within the loop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from casemate.ops.gradients import value_and_grad
from casemate.ops.norms import Norm, inward, project, steepest

L1_SHARE = 0.01  # of the values change in one l1 step, as in `evasion.pgd`


def climb(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    x: Tensor,
    norm: Norm,
    eps: float,
    steps: int,
    step_size: float,
) -> Tensor:
    """Climb a loss (N, *S) -> (N,) by projected gradient steps in the ball around x (N, *S).

    Unlike an attack it runs all steps on all rows: training needs examples that are far over the
    boundary, and the batch is gone before bookkeeping would pay.
    """
    x_adv = start.clamp(0, 1)
    for _ in range(steps):
        grad = value_and_grad(loss, x_adv)[1]
        x_adv = project(x_adv + step_size * steepest(inward(grad, x_adv), norm, L1_SHARE), x, norm, eps)
    return x_adv


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a net in evaluation mode for the time being; modes that differ between layers come back."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """Keep a net from learning for the time being: evaluation mode and constant parameters.

    Batch statistics do not see the attack's steps, and no time goes into parameter gradients. All
    flags are put back afterwards, also those that differ between layers.
    """
    learning = [p for p in net.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        with evaluating(net):
            yield
    finally:
        for p in learning:
            p.requires_grad_(True)


def step_length(step_size: float | None, eps: float, steps: int) -> float:
    """Length of one step, by default 2.5 * eps / steps."""
    return 2.5 * eps / steps if step_size is None else step_size
