"""Training gradients by the weights of a net: which rows have large ones, and where they point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from casemate.core.learner import product, weight_gradient
from casemate.core.target import Classifier
from casemate.core.tick import Tick


def misalignment(one: Sequence[Tensor], other: Sequence[Tensor], /) -> Tensor:
    """Compute 1 - cos of the angle between two gradients, taken over all weights at once; 1 for a zero one."""
    sizes = product(one, one).sqrt() * product(other, other).sqrt()
    return 1 - product(one, other) / sizes.where(sizes > 0, torch.ones_like(sizes))


def steepest_rows(model: Classifier, x: Tensor, y: Tensor, count: int, /) -> Tensor:
    """Choose the rows of x (N, *S) whose own losses have the largest gradients, (min(count, N),), largest first."""
    grads = (weight_gradient(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x)))
    sizes = [product(grad, grad) for grad in grads]
    return torch.stack(sizes).argsort(descending=True, stable=True)[:count] if sizes else y[:0]


@dataclass(frozen=True)
class Pull:
    """A trainable classifier, and the gradient of its weights that a poison should cause."""

    model: Classifier
    wanted: tuple[Tensor, ...]


def align(
    pulls: Callable[[int, Tensor], Sequence[Pull]], base: Tensor, y: Tensor, eps: float, /, *, step: float,
    steps: int, rng: Generator, tick: Tick,
) -> tuple[Tensor, float]:  # fmt: skip
    """Change rows so that training on them would move the weights as wanted: mean of 1 - cos over the pulls.

    Adam on the signs of the gradients, as in the code of Geiping et al., with steps that fall to a tenth
    after 3/8, 5/8 and 7/8 of them. It starts anywhere in the ball.

    Args:
        pulls: gives the pulls for step i, (0 .. steps), and the rows as they are by then.
        base: rows (M, *S), M >= 1.
        y: their labels (M,).
        eps: radius of the change in linf, in units of x.
        step: first step, as a share of eps.
        steps: number of steps.
        rng: source of the start.
        tick: told of each step.

    Returns:
        The best rows since the pulls last changed, and their misalignment.
    """
    low, high = (base - eps).clamp(min=0), (base + eps).clamp(max=1)
    noise = eps * (2 * torch.rand(base.shape, generator=rng).to(base) - 1)
    x = torch.clamp(base + noise, low, high)
    adam = torch.optim.Adam([x], lr=step * eps)
    falls = torch.optim.lr_scheduler.MultiStepLR(adam, [share * steps // 8 for share in (3, 5, 7)])
    best, least, last = x.clone(), torch.inf, None
    for i in range(steps + 1):
        now = pulls(i, x)
        if now is not last:
            least, last = torch.inf, now
        loss, grad = _pulled(now, x, y)
        if loss < least:
            best, least = x.clone(), loss
        if i == steps:
            break
        x.grad = grad.sign()
        adam.step()
        falls.step()
        x.clamp_(low, high)
        tick(i + 1, steps, {"misalignment": loss})
    return best, least


def _pulled(pulls: Sequence[Pull], x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    total, slope = 0.0, torch.zeros_like(x)
    for pull in pulls:
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            off = misalignment(weight_gradient(pull.model, z, y, graph=True), pull.wanted) / len(pulls)
            slope += torch.autograd.grad(off, z)[0]
        total += off.item()
    return total, slope
