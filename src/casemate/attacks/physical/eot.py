"""Expectation over transformation."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from casemate.core.errors import NotApplicable
from casemate.core.physical import PhysicalBudget, Print
from casemate.core.registry import Paper, physical
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import inward, project, steepest
from casemate.ops.rng import RowGenerator

ATHALYE = Paper(
    "Synthesizing robust adversarial examples",
    "Athalye, Engstrom, Ilyas, Kwok",
    2018,
    "https://arxiv.org/abs/1707.07397",
)


@physical(papers=(ATHALYE,), known_as=("EOT", "expectation over transformation"))
def eot(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: PhysicalBudget,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 40,
    draws: Annotated[int, Ge(1)] = 20,
    step_size: Annotated[float, Gt(0)] | None = None,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the mean log-probability of the goal over many random ways through the channel.

    Each step draws a fresh batch of ways for each picture, so the result suits the distribution and
    not a few members of it. Steps get shorter linearly, which averages the last batches.

    Args:
        oracle: white-box access to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` and the channel, a print.
        steps: number of gradient steps.
        draws: ways through the channel per picture and step.
        step_size: length of the first step in the budget's norm, in units of `x`; None means
            5 * eps / steps, enough to cross the ball.
        rng: source of the draws, one stream per row.
        tick: called after each step with the mean log-probability.

    Returns:
        Pictures to print (N, C, H, W), in the ball and in [0, 1].

    Raises:
        NotApplicable: the budget is a sticker.
    """
    if not isinstance(budget, Print):
        raise NotApplicable("physical.eot changes a whole print; stickers are for physical.rp2")
    alpha = 5 * budget.eps / steps if step_size is None else step_size
    each = torch.arange(len(x), device=x.device).repeat_interleave(draws)
    asked, wish = oracle[each], goal[each]
    x_adv = x.clone()
    for step in range(steps):
        ways = budget.channel.sample(draws, rng, tuple(x.shape[1:]))
        z = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            logits = asked.graph(budget.channel.apply(z, ways).flatten(0, 1))
            # log P(goal), which leaves draws alone that are won; it does not saturate on lost ones
            value = logsigmoid(wish.loss(logits)).view(-1, draws).mean(1)
            (grad,) = torch.autograd.grad(value.sum(), z)
        # the paper penalises the LAB distance of t(x') from t(x), with a weight per picture; here the
        # ball is given, so steps are projected onto it as in its later use (Athalye et al. 2018b, BPDA)
        move = steepest(inward(grad, x_adv), budget.norm)
        x_adv = project(x_adv + alpha * (1 - step / steps) * move, x, budget.norm, budget.eps)
        tick(step + 1, steps, {"log-probability": value.mean().item()} if len(x) else {})
    return x_adv
