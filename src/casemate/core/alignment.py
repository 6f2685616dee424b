"""Training gradients by the weights of a net: which rows have large ones, and where they point."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from casemate.core.learner import Weights, product, weight_gradient
from casemate.core.target import Classifier
from casemate.core.tick import Tick


def turn(one: Sequence[Tensor], other: Sequence[Tensor], /) -> tuple[float, Weights]:
    """Compute 1 - cos of the angle between two gradients, over all weights at once, and its derivative by the first.

    Where one of them is zero the cosine counts as 0, and so does the derivative.
    """
    along, size, aim = (float(product(*pair)) for pair in ((one, other), (one, one), (other, other)))
    if not (size > 0 and aim > 0):
        return 1.0, tuple(torch.zeros_like(u) for u in one)
    cos = along / (size**0.5 * aim**0.5)
    return 1 - cos, tuple(
        torch.add(u * (cos / size), v, alpha=-1 / (size**0.5 * aim**0.5))
        for u, v in zip(one, other, strict=True)
    )


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
    adam = torch.optim.Adam([x], lr=step * eps, fused=True)
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
        caused = weight_gradient(pull.model, z, y, graph=True)
        off, back = turn([g.detach() for g in caused], pull.wanted)
        # weights that play no part in the loss have a gradient without a graph
        linked = [(g, b) for g, b in zip(caused, back, strict=True) if g.requires_grad]
        ends, ways = zip(*linked, strict=True)
        slope += torch.autograd.grad(ends, z, ways)[0] / len(pulls)
        total += off / len(pulls)
    return total, slope
