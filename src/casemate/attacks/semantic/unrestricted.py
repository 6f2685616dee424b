"""Unrestricted adversarial examples: inputs made from nothing for one class and read as another."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import cross_entropy

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, semantic
from casemate.core.semantic import Conditional, SemanticBudget
from casemate.core.spaces import ConditionalSpace, space_of
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.losses import others
from casemate.ops.norms import per_row
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

SONG = Paper(
    "Constructing unrestricted adversarial examples with generative models",
    "Song, Shu, Kushman, Ermon",
    2018,
    "https://arxiv.org/abs/1805.07894",
)


@semantic(
    papers=(SONG,),
    known_as=(
        "Constructing unrestricted attack", "Constructing unrestricted", "unrestricted adversarial examples",
    ),
)  # fmt: skip
def unrestricted(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: SemanticBudget,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 200,
    step_size: Annotated[float, Gt(0)] = 0.1,
    slack: Annotated[float, Ge(0)] = 0.1,
    near: Annotated[float, Ge(0)] = 100.0,
    sure: Annotated[float, Ge(0)] = 100.0,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Move a random code until the target misreads what a class-conditional generator makes of it.

    Descends L0 + near L1 + sure L2: L0 is the target's cross-entropy with the best wrong class, L1 how far
    the code leaves a box around its start, L2 the cross-entropy of the generator's own classifier with the
    class asked for. Where the budget allows noise, its logits are optimised along with the code.

    Args:
        oracle: white-box access to the target.
        x: inputs (N, *S), each value in [0, 1], of which only the classes count.
        goal: that each row be misclassified; it gives the classes.
        budget: generator and noise, a `Conditional` budget.
        steps: number of gradient steps; one query each.
        step_size: learning rate for the code; also the length of a step of the noise's logits in linf.
        slack: half width of the box around a code's start in which L1 is zero, in standard deviations.
        near: weight of L1.
        sure: weight of L2.
        rng: source of starts and gradient noise, one stream per row.
        tick: called after each step with the share of rows done.

    Returns:
        Codes (N, A), each followed by the logits of its noise if the budget allows any.

    Raises:
        NotApplicable: the budget is not conditional, or the goal is not misclassification.
    """
    if not isinstance(budget, Conditional):
        raise NotApplicable(
            "semantic.unrestricted asks a generator for a class: it needs a conditional budget"
        )
    opened = space_of(budget, x, goal)
    assert isinstance(opened, ConditionalSpace)
    space, result, size = opened, opened.draw(rng), opened.model.latent
    # the noise starts at zero, as in the authors' code
    result = torch.cat([result[:, :size], torch.zeros_like(result[:, size:])], 1)
    codes, first = result.clone(), result[:, :size].clone()
    left = torch.arange(len(x), device=x.device)
    most = steps if budget.queries is None else min(steps, budget.queries)
    for step in range(most):
        point = codes.detach().requires_grad_()
        with torch.enable_grad():
            made = space.decode(point)
            logits, said = oracle.graph(made), space.model.classify(made.float()).to(made.dtype)
            wrong = -others(logits.log_softmax(1), space.y).amax(1)
            strayed = ((point[:, :size] - first).abs() - slack).clamp(min=0).mean(1)
            unsure = cross_entropy(said, space.y, reduction="none")
            loss = wrong + near * strayed + sure * unsure
            (grad,) = torch.autograd.grad(loss.sum(), point)
        reached = oracle.reached(goal, made.detach(), logits.detach()) & (said.argmax(1) == space.y)
        result[left[reached]] = codes[reached]
        codes = space.clip(torch.cat([_moved(codes, grad, size, step, step_size, rng),
                                      _shifted(codes, grad, size, step_size)], 1))  # fmt: skip
        stand = ~reached
        oracle, space, goal, rng, codes, first, left = keep(
            stand, oracle, space, goal, rng, codes, first, left
        )
        tick(step + 1, most, {"done": 1 - len(left) / len(x)} if len(x) else {})
        if not len(left):
            break
    return result


def _moved(codes: Tensor, grad: Tensor, size: int, step: int, step_size: float, rng: RowGenerator) -> Tensor:
    """Take a step of the code, with gradient noise whose variance is annealed (0.01 / (1 + i)^0.55)."""
    noise = rng.normal(size).to(codes) * (0.01 / (1 + step) ** 0.55) ** 0.5
    slope = grad[:, :size]
    # the authors descend the raw gradient at rate 1; with weights of 100 that throws small generators'
    # codes far away, so that here no step is longer than one whose gradient has length 1
    length = slope.norm(dim=1)
    moved: Tensor = codes[:, :size] - step_size * (slope / per_row(length.clamp(min=1), slope) + noise)
    return moved


def _shifted(codes: Tensor, grad: Tensor, size: int, step_size: float) -> Tensor:
    """Take a step of the noise's logits along the normalised gradient."""
    shifted: Tensor = codes[:, size:] - step_size * grad[:, size:].sign()
    return shifted
