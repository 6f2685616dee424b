"""How a model that gradient descent has trained would change, were some training inputs others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from casemate.core.learner import Learner, Weights, descend, product, slope

Mode = Literal["reverse", "unrolled"]
CORRECTIONS = 30  # most evaluations of the gradient to undo one step
CLOSE = 1e-14  # change of the weights, as a share of their size, at which a step counts as undone


@dataclass(frozen=True)
class Training:
    """Full-batch descent of a learner from `start`: `steps` of `rate` on x (N, *S) with labels y (N,).

    The inputs `free` (M, *S) with labels `given` (M,), which may change, come on top.
    """

    learner: Learner
    start: Weights
    x: Tensor
    y: Tensor
    given: Tensor
    rate: float
    steps: int

    def rows(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """Lay the fixed and the free rows end to end."""
        return torch.cat([self.x, free]), torch.cat([self.y, self.given])

    def run(self, free: Tensor) -> Weights:
        """Train with inputs `free` (M, *S)."""
        return descend(self.learner, self.start, *self.rows(free), self.rate, self.steps)


Aim = Callable[[Weights], Tensor]


def hypergradient(training: Training, free: Tensor, aim: Aim, mode: Mode) -> tuple[Tensor, Tensor]:
    """Differentiate a function of the trained weights by training inputs.

    Args:
        training: how the weights come about.
        free: the inputs (M, *S) to differentiate by.
        aim: function of the trained weights -> scalar.
        mode: "unrolled" keeps the graph of all steps and is exact; "reverse" walks the descent back from
            its end and keeps nothing. That needs float64 and a rate below 1 / (largest curvature), and
            the weights found on the way drift off the more, the more steps and the higher the rate.

    Returns:
        The value of `aim`, a scalar, and its gradient (M, *S).
    """
    with torch.enable_grad():
        match mode:
            case "unrolled":
                return _unrolled(training, free, aim)
            case "reverse":
                return _reversed(training, free, aim)
    assert_never(mode)


def _unrolled(training: Training, free: Tensor, aim: Aim) -> tuple[Tensor, Tensor]:
    z = free.detach().requires_grad_()
    x, y = training.rows(z)
    weights = tuple(w.detach().requires_grad_() for w in training.start)
    for _ in range(training.steps):
        steps = torch.autograd.grad(training.learner.loss(weights, x, y), weights, create_graph=True)
        weights = tuple(w - training.rate * s for w, s in zip(weights, steps, strict=True))
    value = aim(weights)
    (found,) = torch.autograd.grad(value, z)
    return value.detach(), found


def _reversed(training: Training, free: Tensor, aim: Aim) -> tuple[Tensor, Tensor]:
    of, rate = training.learner, training.rate
    end = tuple(w.detach().requires_grad_() for w in training.run(free.detach()))
    value = aim(end)
    pull: Weights = torch.autograd.grad(value, end)
    found, weights = torch.zeros_like(free), end
    for _ in range(training.steps):
        weights = _before(training, weights, free.detach())
        z = free.detach().requires_grad_()
        at = tuple(w.detach().requires_grad_() for w in weights)
        steps = torch.autograd.grad(of.loss(at, *training.rows(z)), at, create_graph=True)
        along, across = _split(torch.autograd.grad(product(steps, pull), (*at, z)))
        pull = tuple(torch._foreach_sub(pull, along, alpha=rate))
        found = found - rate * across
    return value.detach(), found


def _split(parts: tuple[Tensor, ...]) -> tuple[Weights, Tensor]:
    return parts[:-1], parts[-1]


def _before(training: Training, after: Weights, free: Tensor) -> Weights:
    """Undo a step: find w with w - rate * gradient(w) = after.

    The paper takes the gradient at `after`, which is the first round of this iteration and leaves an
    error of second order in the rate; a few more rounds remove it.
    """
    x, y = training.rows(free)
    now = after = tuple(w.detach() for w in after)
    for _ in range(CORRECTIONS):
        nearer = tuple(torch._foreach_add(after, slope(training.learner, now, x, y), alpha=training.rate))
        moved = torch.stack([(a - b).abs().max() for a, b in zip(nearer, now, strict=True)]).max()
        size = torch.stack([a.abs().max() for a in nearer]).max()
        now = nearer
        if float(moved) <= CLOSE * float(size):
            break
    return now
