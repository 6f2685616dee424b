"""Generative adversarial perturbations."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from casemate.core.perturber import fit, perturber
from casemate.core.registry import Paper, universal
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import project, shrink

POURSAEED = Paper(
    "Generative adversarial perturbations",
    "Poursaeed, Katsman, Gao, Belongie",
    2018,
    "https://arxiv.org/abs/1712.02328",
)
XIAO = Paper(
    "Generating adversarial examples with adversarial networks",
    "Xiao, Li, Zhu, He, Liu, Song",
    2018,
    "https://arxiv.org/abs/1801.02610",
)


@universal(
    norms=("linf", "l2"),
    papers=(POURSAEED, XIAO),
    known_as=("GAP", "generative adversarial perturbations", "AdvGAN-style generator"),
)
def gap(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    variant: Literal["image", "universal"] = "image",
    steps: Annotated[int, Ge(1)] = 400,
    batch: Annotated[int, Ge(1)] = 64,
    lr: Annotated[float, Gt(0)] = 2e-3,
    width: Annotated[int, Ge(1)] = 16,
    hidden: Annotated[int, Ge(1)] = 128,
    loss: Loss = "ce",
    rng: Generator,
    tick: Tick = ignore,
) -> Callable[[Tensor], Tensor]:
    """Train a network that makes a perturbation of the full budget for each input in one pass.

    It minimises log(1 + exp(-loss)), with `ce` the negated log-probability of the goal. AdvGAN's
    discriminator, which keeps its changes small, is left out: here the ball does that.

    Args:
        oracle: white-box access to the target.
        x: inputs (N, *S) to learn from, each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around every input that the result stays in.
        variant: `image` makes a perturbation from each input, `universal` one from fixed noise.
        steps: number of batches trained on.
        batch: rows of a batch.
        lr: learning rate of Adam.
        width: channels of the first convolution; the second has twice as many.
        hidden: units of the hidden layer.
        loss: surrogate of success.
        rng: source of the weights, the noise and the batches.
        tick: called every 25 steps with the loss.

    Returns:
        The map that adds the network's perturbation to inputs and keeps them in ball and box.
    """
    net = perturber(x, width, hidden, rng)
    noise = torch.rand(x.shape[1:], generator=rng).to(x)[None] if variant == "universal" else None

    def objective(rows: Tensor) -> Tensor:
        x_adv = _apply(net, noise, budget, x[rows])
        values = goal[rows].loss(oracle[rows].graph(x_adv), loss)
        # the paper takes the logarithm of the cross-entropy, which does not weigh rows by what is left
        return F.softplus(-values).mean()

    fit(net, len(x), objective, steps=steps, batch=batch, lr=lr, rng=rng, tick=tick, device=x.device)
    return partial(_use, net, noise, budget)


def _apply(net: nn.Module, noise: Tensor | None, budget: Lp, x: Tensor) -> Tensor:
    """Perturb x with a graph."""
    raw = net(x) if noise is None else net(noise.to(x))
    eps = budget.radius
    # linf: bounded by tanh, for a clamp would stop the gradient; l2: scaled as the paper does
    delta = eps * raw.tanh() if budget.norm == "linf" else shrink(raw, budget.norm, eps)
    return (x + delta).clamp(0, 1)


@torch.no_grad()
def _use(net: nn.Module, noise: Tensor | None, budget: Lp, x: Tensor) -> Tensor:
    return project(_apply(net, noise, budget, x), x, budget.norm, budget.radius)
