"""Evasion attacks whose rows know one another."""

import torch

from casemate.ops.norms import project, steepest
from conformance.broken.evasion import breaks, walk
from conformance.evasion import rows
from conformance.toys import climb


@breaks(rows.attacks_a_row_alone_as_in_a_batch)
def scales_gradients_by_the_batch(oracle, x, goal, budget, *, steps, rng, tick):
    return walk(oracle, x, goal, budget, lambda g: budget.eps / 5 * g / g.norm(), 2, tick)


@breaks(rows.attacks_a_row_alone_as_in_a_batch)
def stops_with_the_last_row(oracle, x, goal, budget, *, steps, rng, tick):
    """Loop until the whole batch is fooled (pitfall S2)."""
    return walk(
        oracle, x, goal, budget, lambda g: budget.eps / 20 * steepest(g, budget.norm), 20, tick,
        stop=lambda logits: bool(goal.reached(logits).all()),
    )  # fmt: skip


@breaks(rows.permutes_with_its_rows)
def draws_for_the_batch_as_a_whole(oracle, x, goal, budget, **settings):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    found = climb(oracle, x, goal, budget, **settings)
    return project(found - 0.1 * budget.eps * noise, x, budget.norm, budget.eps)


@breaks(rows.does_not_mind_how_rows_are_split)
def compares_with_its_neighbours(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return project(found - 0.01 * found.mean(0, keepdim=True), x, budget.norm, budget.eps)


@breaks(rows.does_not_spread_a_bad_row)
def gives_up_on_the_batch(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found if oracle.logits(x.detach()).isfinite().all() else x.detach().clone()
