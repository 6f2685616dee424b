"""Evasion attacks that spend, exceed, hide or cannot be stopped."""

import contextlib

from casemate.core.errors import Cancelled
from casemate.core.registry import Cost
from casemate.core.target import LabelOracle, Prepared
from conformance.broken.evasion import breaks
from conformance.evasion import effort
from conformance.toys import climb, try_noise


@breaks(effort.spends_what_it_declares)
def asks_once_more_than_it_says(oracle, x, goal, budget, **settings):
    oracle.labels(x.detach())
    return climb(oracle, x, goal, budget, **settings)


@breaks(effort.spends_what_it_declares, cost=lambda p, k: Cost(queries=2 * p.steps, gradients=p.steps))
def asks_less_than_it_says(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings)


@breaks(
    effort.spends_what_it_declares,
    cost=lambda p, k: Cost(queries=p.steps, gradients=p.steps - 1, exact=False),
)
def exceeds_its_bound(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings)


@breaks(effort.spends_what_it_declares)
def asks_about_every_class(oracle, x, goal, budget, **settings):
    """One pass per class that the declared cost does not know of (pitfall G7)."""
    for _ in range(oracle.classes):
        oracle.gradient(x, goal)
    return climb(oracle, x, goal, budget, **settings)


@breaks(effort.respects_a_limit_of_queries, access=LabelOracle, cost=lambda p, k: Cost(queries=p.steps))
def ignores_the_limit(oracle, x, goal, budget, **settings):
    return try_noise(oracle, x, goal, budget.model_copy(update={"queries": None}), **settings)


@breaks(effort.spends_what_it_declares)
def hides_its_queries(oracle, x, goal, budget, **settings):
    """Ask an oracle of its own, so that the ledger stays empty."""
    return climb(type(oracle)(Prepared(oracle.prepared.target), len(x)), x, goal, budget, **settings)


@breaks(effort.stops_when_a_tick_raises)
def swallows_exceptions(oracle, x, goal, budget, **settings):
    with contextlib.suppress(Cancelled):
        return climb(oracle, x, goal, budget, **settings)
    return x.detach().clone()


@breaks(effort.stops_when_a_tick_raises)
def never_ticks(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(oracle, x, goal, budget, steps=steps, rng=rng)


@breaks(effort.ticks_in_order)
def counts_steps_from_zero(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=lambda i, n, v: tick(i - 1, n, v))


@breaks(effort.ticks_in_order)
def starts_counting_anew(oracle, x, goal, budget, *, steps, rng, tick):
    climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)
    return climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)


@breaks(effort.ticks_in_order)
def reports_tensors(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(
        oracle, x, goal, budget, steps=steps, rng=rng, tick=lambda i, n, v: tick(i, n, {"x": x.sum()})
    )
