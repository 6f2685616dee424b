"""TRADES."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.core.registry import Paper, training
from casemate.defences.training.inner import climb, step_length, still

ZHANG = Paper(
    "Theoretically principled trade-off between robustness and accuracy",
    "Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan",
    2019,
    "https://arxiv.org/abs/1901.08573",
)
NUDGE = 1e-3  # standard deviation of the start, in units of x, as in the authors' code


@training(papers=(ZHANG,), known_as=("TRadeoff-inspired Adversarial DEfense via Surrogate-loss",))
def trades(
    recipe: Recipe,
    /,
    *,
    eps: Annotated[float, Gt(0)] = 8 / 255,
    norm: Literal["linf", "l2", "l1"] = "linf",
    beta: Annotated[float, Ge(0)] = 6.0,
    steps: Annotated[int, Ge(1)] = 10,
    step_size: Annotated[float, Gt(0)] | None = None,
) -> Recipe:
    """Train for clean accuracy and for predictions that stay the same nearby, traded off by a weight.

    The loss is CE(f(x), y) + beta * KL(f(x) || f(x')), at the x' in the ball where the divergence
    is largest. Nothing is done against robust overfitting (see `training.adversarial`).

    Args:
        recipe: how the model is trained; its loss must be plain cross-entropy, which is replaced.
        eps: radius of the ball that the model should withstand, in units of `x`.
        norm: norm of that ball.
        beta: weight of the divergence against clean cross-entropy; both are in nats.
        steps: gradient steps of the inner maximisation on each batch.
        step_size: length of one step in that norm, in units of `x`; None means 2.5 * eps / steps.

    Returns:
        The recipe with the loss of TRADES.

    Raises:
        UsageError: another defence has already replaced the recipe's loss.
    """
    if recipe.batch_loss is not cross_entropy:
        raise UsageError(
            "TRADES replaces the loss of a recipe, which must be cross_entropy. Got another loss."
        )
    return replace(recipe, batch_loss=Trades(eps, norm, beta, steps, step_size))


@dataclass(frozen=True)
class Trades:
    """Cross-entropy on the clean batch, plus the divergence that a short attack can cause."""

    eps: float
    norm: Literal["linf", "l2", "l1"]
    beta: float
    steps: int
    step_size: float | None

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Move the batch to where predictions differ most and compute the loss."""
        # at x itself the divergence and its gradient are zero
        start = x + NUDGE * torch.randn(x.shape, generator=rng).to(x)
        with still(net):
            with torch.no_grad():
                reference = net(x).log_softmax(1)
            x_adv = climb(
                lambda z: divergence(reference, net(z).log_softmax(1)), start, x, self.norm, self.eps, self.steps,
                step_length(self.step_size, self.eps, self.steps),
            )  # fmt: skip
        logits = net(x)
        distance = divergence(logits.log_softmax(1), net(x_adv).log_softmax(1)).mean()
        return F.cross_entropy(logits, y) + self.beta * distance


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) of log-probabilities (N, K), (N,) in nats."""
    return (p.exp() * (p - q)).sum(1)
