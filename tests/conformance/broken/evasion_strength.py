"""Evasion attacks that are weak."""

import torch

from casemate.core.registry import Cost
from casemate.core.threat import Become, Misclassify
from casemate.ops.norms import per_row, project, steepest
from conformance.broken.evasion import breaks, walk
from conformance.evasion import classifiers, strength
from conformance.toys import approach, climb


def does_nothing(oracle, x, goal, budget, **settings):
    climb(oracle, x, goal, budget, **settings)
    return x.detach().clone()


for _promise in (
    strength.beats_noise_of_the_same_size,
    strength.fools_an_easy_model,
    strength.grants_a_target_class,
):
    breaks(_promise)(does_nothing)


@breaks(classifiers.takes_any_number_of_classes)
@breaks(strength.beats_noise_of_the_same_size)
def descends(oracle, x, goal, budget, *, steps, rng, tick):
    """The sign of the loss is wrong."""
    return walk(oracle, x, goal, budget, lambda g: -budget.eps / 3 * steepest(g, budget.norm), 5, tick)


@breaks(strength.does_not_weaken_as_the_ball_grows)
def fails_in_large_balls(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found if budget.eps < {"linf": 0.15, "l2": 0.6}[budget.norm] else x.detach().clone()


@breaks(strength.does_not_weaken_with_more_steps)
def wears_out(oracle, x, goal, budget, *, steps, rng, tick):
    found = climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)
    return found if steps <= 10 else x.detach().clone()


@breaks(strength.grants_a_target_class)
def goes_away_from_the_target(oracle, x, goal, budget, **settings):
    """A targeted attack with the sign of an untargeted one (pitfall G5)."""
    if isinstance(goal, Become):
        goal = Misclassify(goal.t)
    return climb(oracle, x, goal, budget, **settings)


@breaks(strength.grants_a_target_class)
def knows_labels_only(oracle, x, goal, budget, **settings):
    return climb(oracle, x, Misclassify(goal.y), budget, **settings)


@breaks(
    strength.finds_the_nearest_of_a_linear_model,
    cost=lambda p, k: Cost(queries=p.steps + 1, gradients=1),
    minimum_norm=True,
)
def stops_too_far_away(oracle, x, goal, budget, **settings):
    found = approach(oracle, x, goal, budget, **settings)
    return project(x + 1.2 * (found - x), x, budget.norm, budget.eps)


@breaks(strength.keeps_its_successes_with_cheap_gradients)
def believes_rounded_logits(oracle, x, goal, budget, **settings):
    """Bisect to the boundary that bfloat16 draws, without asking float32."""
    seen = oracle.gradient(x, goal, "margin")
    away = steepest(seen.grad, budget.norm)
    low, high = torch.zeros(len(x)).to(x), torch.full((len(x),), budget.eps).to(x)
    for _ in range(20):
        middle = (low + high) / 2
        reached = goal.reached(oracle.graph(x + per_row(middle, x) * away))
        high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
    return project(x + per_row(high, x) * away, x, budget.norm, budget.eps)
