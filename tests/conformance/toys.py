"""Methods that keep every promise, made for testing the battery."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core import registry
from casemate.core.registry import Cost, Entry, Paper
from casemate.core.target import GradientOracle, LabelOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import nonzero, per_row, project, random_in_ball, size, steepest
from casemate.ops.rng import RowGenerator

PAPER = Paper("A method to test the tests with", "Nobody", 2000, "https://example.org/paper")


def entry_of(decorator: Callable[[Any], Any], run: Callable[..., Any]) -> Entry:
    """Register a method, take its entry and forget it again."""
    known = set(registry._ENTRIES)
    decorator(run)
    (new,) = set(registry._ENTRIES) - known
    return registry._ENTRIES.pop(new)


def evasion_entry(
    run: Callable[..., Any],
    cost: Callable[[Any, int], Cost] = lambda p, k: Cost(queries=p.steps, gradients=p.steps),
    **more: Any,
) -> Entry:
    """Make the entry of a toy evasion attack."""
    return entry_of(registry.evasion(norms=("linf", "l2"), papers=(PAPER,), cost=cost, **more), run)


def finite(values: Tensor) -> Tensor:
    """Put zero where a gradient is no number: such a row stands still."""
    return torch.where(values.isfinite(), values, torch.zeros_like(values))


def climb(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the margin from a random start and keep the best point met.

    Args:
        steps: number of gradient steps, one query each.
    """
    x = x.detach()
    best, highest = x.clone(), torch.full((len(x),), float("-inf"), dtype=x.dtype)
    # the clean point comes first, so that a row that is already wrong stays wrong
    x_adv = best
    count = min(steps, budget.queries or steps)
    for step in range(count):
        seen = oracle.gradient(x_adv, goal, "margin")
        reached = (
            oracle.reached(goal, x_adv, seen.logits) if oracle.prepared.cheap else goal.reached(seen.logits)
        )
        better = (seen.loss > highest) & seen.logits.isfinite().all(1) | reached
        best = torch.where(per_row(better, x), x_adv, best)
        highest = torch.where(better, seen.loss, highest)
        if step == 0:
            x_adv = x + random_in_ball(x, budget.norm, budget.eps / 4, rng)
        x_adv = project(
            x_adv + budget.eps * steepest(finite(seen.grad), budget.norm), x, budget.norm, budget.eps
        )
        tick(step + 1, count, {"loss": seen.loss.nan_to_num().mean().item()} if len(x) else {})
    return best


def approach(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 30,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Bisect along the margin's gradient for the nearest example.

    Args:
        steps: number of points tried after the first, one query each.
    """
    x = x.detach()
    seen = oracle.gradient(x, goal, "margin")
    away = steepest(finite(seen.grad), budget.norm)
    best = x.clone()
    done = goal.reached(seen.logits)
    low, high = torch.zeros(len(x), dtype=x.dtype), torch.full((len(x),), min(budget.eps, 8.0), dtype=x.dtype)
    at = high.clone()
    count = steps if budget.queries is None else min(steps, budget.queries - 1)
    for step in range(count):
        x_adv = project(x + away * per_row(at, x), x, budget.norm, budget.eps)
        logits = oracle.graph(x_adv)
        reached = oracle.reached(goal, x_adv, logits)
        best = torch.where(per_row(reached & ~done, x), x_adv, best)
        high, low = torch.where(reached, at, high), torch.where(reached, low, at)
        at = (low + high) / 2
        tick(step + 1, count, {})
    if not count:
        tick(1, 1, {})
    return best


def try_noise(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 10,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Draw points of the ball until one is decided as the goal says.

    Args:
        steps: number of points tried, one query each.
    """
    x = x.detach()
    best, done = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    count = min(steps, budget.queries or steps)
    for step in range(count):
        noise = random_in_ball(x, budget.norm, budget.eps, rng)
        x_adv = x if step == 0 else project(x + noise / nonzero(per_row(size(noise, budget.norm), x)) * budget.eps,
                                            x, budget.norm, budget.eps)  # fmt: skip
        labels = oracle.labels(x_adv)
        reached = goal.reached(torch.nn.functional.one_hot(labels, oracle.classes).to(x))
        best = torch.where(per_row(reached & ~done, x), x_adv, best)
        done |= reached
        tick(step + 1, count, {})
    return best


CORRECT = (
    evasion_entry(climb),
    evasion_entry(approach, lambda p, k: Cost(queries=p.steps + 1, gradients=1), minimum_norm=True),
    evasion_entry(try_noise, lambda p, k: Cost(queries=p.steps)),
)
