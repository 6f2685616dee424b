"""Adversarial transformation networks."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.perturber import fit, perturber
from casemate.core.registry import Paper, universal
from casemate.core.target import GradientOracle
from casemate.core.threat import Become, Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.losses import others
from casemate.ops.norms import shrink

BALUJA = Paper(
    "Adversarial transformation networks: learning to generate adversarial examples",
    "Baluja, Fischer",
    2017,
    "https://arxiv.org/abs/1703.09387",
)
Variant = Literal["p_atn", "aae"]
# weights of the distance that are tried, as shares: at the edge of the ball the distance costs as much
SHARES = (0.2, 0.07, 0.02)
HELD_OUT = 500


@universal(
    norms=("l2", "linf"),
    papers=(BALUJA,),
    known_as=("ATN", "adversarial transformation network", "P-ATN", "adversarial autoencoding", "AAE"),
    wish="one class",
)
def atn(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    variant: Variant = "p_atn",
    alpha: Annotated[float, Gt(1)] = 1.5,
    beta: Annotated[float, Ge(0)] | None = None,
    temperature: Annotated[float, Gt(0)] | None = None,
    steps: Annotated[int, Ge(1)] = 300,
    batch: Annotated[int, Ge(1)] = 64,
    lr: Annotated[float, Gt(0)] = 3e-3,
    width: Annotated[int, Ge(1)] = 16,
    hidden: Annotated[int, Ge(1)] = 128,
    rng: Generator,
    tick: Tick = ignore,
) -> Callable[[Tensor], Tensor]:
    """Train a network that makes one class come first and leaves the order of the others as it was.

    It minimises beta * |g(x) - x|^2 + |f(g(x)) - r(f(x))|^2, both sums over values, where r raises the
    target's probability to alpha times the largest and divides by the sum.

    Args:
        oracle: white-box access to the target.
        x: inputs (N, *S) to learn from, each value in [0, 1].
        goal: one class for all rows; misclassification is refused.
        budget: ball around every input that the result stays in.
        variant: `p_atn` computes a perturbation, bounded by tanh; `aae` the whole input anew.
        alpha: target's probability over the largest one, above 1: at 1 the two would tie.
        beta: weight of the squared distance, per squared unit of `x`; None tries three and keeps the
            network that does best on some of the rows, held out.
        temperature: divides the logits before the softmax, whose saturated probabilities say nothing of
            the order; None means the mean gap between the two largest logits.
        steps: number of batches trained on, for each weight.
        batch: rows of a batch.
        lr: learning rate of Adam.
        width: channels of the first convolution; the second has twice as many.
        hidden: units of the hidden layer.
        rng: source of the weights, the batches and the rows held out.
        tick: called every 25 steps with the loss.

    Returns:
        The map that passes inputs through the network and keeps them in ball and box.

    Raises:
        NotApplicable: the goal is not the same class for all rows.
    """
    if not isinstance(goal, Become) or len(goal.t.unique()) > 1:
        raise NotApplicable("universal.atn needs one target class for all inputs")
    if not len(x):
        return torch.clone
    clean = oracle.logits(x)
    heat = _gap(clean) if temperature is None else temperature
    wanted = rerank((clean / heat).softmax(1), goal.t, alpha)
    order = torch.randperm(len(x), generator=rng)
    count = 0 if beta is not None else min(HELD_OUT, len(x) // 5)
    held, rows = order[:count], order[count:]
    # the paper's weight depends on the units of the distance: here it is a share of the squared radius
    tried = [s / max(budget.radius, 1e-6) ** 2 for s in SHARES] if beta is None else [beta]
    best, found = -1.0, None
    for i, weight in enumerate(tried):
        net = perturber(x, width, hidden, rng)

        def objective(part: Tensor, net: nn.Module = net, weight: float = weight) -> Tensor:
            at = rows.to(x.device)[part]
            raw = _transform(net, variant, budget, x[at])
            # The paper has no ball, only the soft distance. The ball of the budget stands around both
            # training and use, and the distance is taken before it, where it still has a gradient.
            x_adv = _keep(raw, x[at], budget)
            probabilities = (oracle[at].graph(x_adv) / heat).softmax(1)
            distance = (raw - x[at]).flatten(1).square().sum(1)
            return (weight * distance + (probabilities - wanted[at]).square().sum(1)).mean()

        fit(
            net, len(rows), objective, steps=steps, batch=batch, lr=lr, rng=rng, device=x.device,
            tick=lambda step, total, values, i=i: tick(i * total + step, len(tried) * total, values),
        )  # fmt: skip
        score = _score(oracle[held], _use(net, variant, budget, x[held]), goal[held], clean[held])
        if found is None or score > best:
            best, found = score, net
    assert found is not None
    return partial(_use, found, variant, budget)


def rerank(probabilities: Tensor, t: Tensor, alpha: float) -> Tensor:
    """Raise class t (N,) to alpha times the largest of the probabilities (N, K), and divide by the sum."""
    raised = probabilities.scatter(1, t[:, None], alpha * probabilities.amax(1, keepdim=True))
    return raised / raised.sum(1, keepdim=True)


def _gap(logits: Tensor) -> float:
    top = logits.topk(2, 1).values
    gap = float((top[:, 0] - top[:, 1]).mean())
    return gap if gap > 0 else 1.0


def _score(oracle: GradientOracle, x_adv: Tensor, goal: Become, clean: Tensor) -> float:
    """Share of rows with the target first, plus the share that have the former first class second as well."""
    if not len(x_adv):
        return 0.0
    logits = oracle.logits(x_adv)
    won = goal.reached(logits)
    kept = won & (others(logits, goal.t).argmax(1) == clean.argmax(1))
    return float(won.double().mean() + kept.double().mean())


def _transform(net: nn.Module, variant: Variant, budget: Lp, x: Tensor) -> Tensor:
    match variant:
        case "p_atn":
            # what tanh cannot reach need not be cut off
            delta: Tensor = net(x).tanh()
            return x + delta * (budget.radius if budget.norm == "linf" else 1.0)
        case "aae":
            out: Tensor = net(x).sigmoid()
            return out
    assert_never(variant)


def _keep(raw: Tensor, x: Tensor, budget: Lp) -> Tensor:
    return (x + shrink(raw - x, budget.norm, budget.radius)).clamp(0, 1)


@torch.no_grad()
def _use(net: nn.Module, variant: Variant, budget: Lp, x: Tensor) -> Tensor:
    return _keep(_transform(net, variant, budget, x), x, budget)
