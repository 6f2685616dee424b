"""Evasion attacks with one defect each, by the promise that must catch it.

Each is `climb` (or `approach`) of the toys with something wrong around or inside it. Most defects
were seen in released libraries (see the pitfall ids).
"""

import contextlib
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.errors import Cancelled
from casemate.core.registry import Cost, Entry
from casemate.core.target import GradientOracle, LabelOracle, Prepared
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import per_row, project, steepest
from casemate.ops.rng import RowGenerator
from conformance import evasion
from conformance.evasion import Check
from conformance.toys import approach, climb, evasion_entry, finite, try_noise

Defect = Callable[..., Tensor]
BROKEN: dict[Check, list[Entry]] = defaultdict(list)


def breaks(promise: Check, access: type = GradientOracle, **more: Any) -> Callable[[Defect], Defect]:
    """Make an evasion attack of a defect and say which promise it breaks."""

    def keep(defect: Defect) -> Defect:
        def run(
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
            """Attack with a defect.

            Args:
                steps: number of gradient steps, one query each.
            """
            return defect(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)

        run.__name__ = defect.__name__
        run.__annotations__["oracle"] = access
        BROKEN[promise].append(evasion_entry(run, **more))
        return defect

    return keep


@breaks(evasion.leaves_its_input_alone)
def writes_into_its_input(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    x.detach().copy_(found)
    return found


@breaks(evasion.leaves_its_input_alone)
def writes_into_its_labels(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    goal.y.zero_()
    return found


@breaks(evasion.leaves_the_model_alone)
def leaves_the_model_in_evaluation_mode(oracle, x, goal, budget, **settings):
    oracle.prepared.target.net.eval()
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.leaves_the_model_alone)
def thaws_frozen_modules(oracle, x, goal, budget, **settings):
    net = oracle.prepared.target.net
    net.eval()
    found = climb(oracle, x, goal, budget, **settings)
    net.train()
    return found


@breaks(evasion.leaves_the_model_alone)
def restores_only_without_an_exception(oracle, x, goal, budget, **settings):
    net = oracle.prepared.net
    weight = next(net.parameters())
    weight.requires_grad_(True)
    found = climb(oracle, x, goal, budget, **settings)
    weight.requires_grad_(False)
    return found


@breaks(evasion.leaves_the_model_alone)
def leaves_gradients_on_the_weights(oracle, x, goal, budget, **settings):
    target = oracle.prepared.target
    modes = [(m, m.training) for m in target.net.modules()]
    target.net.eval()
    goal.loss(target.logits(x.detach()), "margin").sum().backward()
    for module, mode in modes:
        module.training = mode
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.leaves_the_model_alone)
def updates_batch_statistics(oracle, x, goal, budget, **settings):
    net = oracle.prepared.target.net
    modes = [(m, m.training) for m in net.modules()]
    net.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net(x.detach())
    for module, mode in modes:
        module.training = mode
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.leaves_the_model_alone)
def forgets_a_hook(oracle, x, goal, budget, **settings):
    oracle.prepared.target.net.register_forward_hook(lambda *_: None)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.treats_a_training_model_as_in_use)
def keeps_dropout_on(oracle, x, goal, budget, **settings):
    with torch.random.fork_rng(devices=[]):
        oracle.prepared.net.train(oracle.prepared.target.net.training)
        found = climb(oracle, x, goal, budget, **settings)
        oracle.prepared.net.eval()
    return found


@breaks(evasion.leaves_global_state_alone)
def seeds_torch(oracle, x, goal, budget, **settings):
    torch.manual_seed(0)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.leaves_global_state_alone)
def draws_from_numpy(oracle, x, goal, budget, **settings):
    np.random.rand()  # noqa: NPY002
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.leaves_global_state_alone)
def draws_from_python(oracle, x, goal, budget, **settings):
    random.random()
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.repeats_itself)
def starts_from_global_noise(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return project(found + 1e-3 * torch.rand_like(found), x, budget.norm, budget.eps)


@breaks(evasion.leaves_global_state_alone)
def prints(oracle, x, goal, budget, **settings):
    print("attacking")
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.stays_in_ball_and_box)
def leaves_the_ball_a_little(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return (x + 1.001 * (found - x)).clamp(0, 1)


@breaks(evasion.stays_in_ball_and_box)
def leaves_the_box(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    at_edge = (found == 1) & (found > x)
    return torch.where(at_edge, found + (budget.eps - (found - x)).clamp(min=0), found)


@breaks(evasion.fits_a_tight_ball)
def rounds_to_eight_bits(oracle, x, goal, budget, **settings):
    return (climb(oracle, x, goal, budget, **settings) * 255).round() / 255


@breaks(evasion.returns_a_plain_tensor)
def returns_a_graph(oracle, x, goal, budget, **settings):
    z = climb(oracle, x, goal, budget, **settings).requires_grad_()
    return z + 0 * oracle.graph(z).sum()


@breaks(evasion.returns_a_plain_tensor)
def returns_the_input_itself(oracle, x, goal, budget, **settings):
    climb(oracle, x, goal, budget, **settings)
    return x.detach()


@breaks(evasion.stays_in_ball_and_box)
def returns_another_precision(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found.double() if found.dtype == torch.float32 else found.float()


@breaks(evasion.stays_in_ball_and_box)
def returns_another_shape(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings).flatten(1)


@breaks(evasion.changes_nothing_without_a_budget)
def steps_by_an_absolute_length(oracle, x, goal, budget, **settings):
    return (climb(oracle, x, goal, budget, **settings) + 1e-4).clamp(0, 1)


@breaks(evasion.takes_an_empty_batch)
def looks_at_the_first_row(oracle, x, goal, budget, **settings):
    assert x[0].min() >= 0
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.takes_any_shape)
def expects_pictures(oracle, x, goal, budget, **settings):
    _, _, _, _ = x.shape
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.takes_any_layout)
def views_memory(oracle, x, goal, budget, **settings):
    flat = x.view(len(x), -1)
    return climb(oracle, flat.view(x.shape), goal, budget, **settings)


def _steps(oracle, x, goal, budget, direction, steps, tick, stop=lambda logits: False, start=None):
    """Walk by a direction given as a function of gradients; the last point is returned."""
    x_adv = x.detach() if start is None else start
    for step in range(steps):
        seen = oracle.gradient(x_adv, goal, "margin")
        if stop(seen.logits):
            break
        x_adv = project(x_adv + direction(seen.grad), x, budget.norm, budget.eps)
        tick(step + 1, steps, {})
    return x_adv


@breaks(evasion.attacks_a_row_alone_as_in_a_batch)
def scales_gradients_by_the_batch(oracle, x, goal, budget, *, steps, rng, tick):
    return _steps(oracle, x, goal, budget, lambda g: budget.eps / 5 * g / g.norm(), 2, tick)


@breaks(evasion.attacks_a_row_alone_as_in_a_batch)
def stops_with_the_last_row(oracle, x, goal, budget, *, steps, rng, tick):
    """Loop until the whole batch is fooled (pitfall S2)."""
    return _steps(
        oracle, x, goal, budget, lambda g: budget.eps / 20 * steepest(g, budget.norm), 20, tick,
        stop=lambda logits: bool(goal.reached(logits).all()),
    )  # fmt: skip


@breaks(evasion.permutes_with_its_rows)
def draws_for_the_batch_as_a_whole(oracle, x, goal, budget, **settings):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    found = climb(oracle, x, goal, budget, **settings)
    return project(found - 0.1 * budget.eps * noise, x, budget.norm, budget.eps)


@breaks(evasion.does_not_mind_how_rows_are_split)
def compares_with_its_neighbours(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return project(found - 0.01 * found.mean(0, keepdim=True), x, budget.norm, budget.eps)


@breaks(evasion.does_not_spread_a_bad_row)
def gives_up_on_the_batch(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found if oracle.logits(x.detach()).isfinite().all() else x.detach().clone()


@breaks(evasion.takes_any_number_of_classes)
def needs_three_classes(oracle, x, goal, budget, **settings):
    oracle.logits(x.detach()).topk(3, 1)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.takes_any_number_of_classes)
def knows_ten_classes(oracle, x, goal, budget, **settings):
    torch.nn.functional.one_hot(goal.y, 10)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.takes_a_single_class)
def needs_another_class(oracle, x, goal, budget, **settings):
    oracle.logits(x.detach()).topk(2, 1)
    return climb(oracle, x, goal, budget, **settings)


def _by_loss(oracle, x, goal, budget, loss, tick, guard=0.0):
    """Take ten steps along the gradient of a loss of logits and labels."""
    x_adv = x.detach()
    for step in range(10):
        z = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(oracle.graph(z), goal.y).sum(), z)
        if guard:
            length = per_row(grad.flatten(1).norm(dim=1), grad)
            move = grad / (length + guard) * (length > 0)
        else:
            move = steepest(finite(grad), budget.norm)
        x_adv = project(x_adv + budget.eps / 3 * move, x, budget.norm, budget.eps)
        tick(step + 1, 10, {})
    return x_adv


@breaks(evasion.does_not_mind_shifted_logits)
def has_a_zero_among_the_other_classes(oracle, x, goal, budget, *, steps, rng, tick):
    """The margin's maximum over other classes includes a 0, so it looks won below 0 (pitfall G1)."""

    def margin(logits: Tensor, y: Tensor) -> Tensor:
        own = torch.nn.functional.one_hot(y, logits.shape[1])
        return ((1 - own) * logits).amax(1) - (own * logits).sum(1)

    def stuck(logits: Tensor, y: Tensor) -> Tensor:
        return margin(logits, y).clamp(max=0)

    return _by_loss(oracle, x, goal, budget, stuck, tick)


@breaks(evasion.does_not_mind_scaled_logits)
def saturates(oracle, x, goal, budget, *, steps, rng, tick):
    """Cross-entropy of confident rows has no gradient (pitfall G2)."""
    loss = torch.nn.functional.cross_entropy
    return _by_loss(oracle, x, goal, budget, lambda z, y: loss(z, y, reduction="none"), tick)


@breaks(evasion.does_not_mind_scaled_logits)
def guards_by_an_absolute_number(oracle, x, goal, budget, *, steps, rng, tick):
    """A small gradient is divided by 1e-3 and loses its length."""
    return _by_loss(oracle, x, goal, budget, lambda z, y: goal.loss(z, "margin"), tick, guard=1e-3)


@breaks(evasion.reads_probabilities)
def takes_probabilities_for_logits(oracle, x, goal, budget, **settings):
    net = oracle.prepared.net
    found = climb(oracle, x, goal, budget, **settings)
    top = net(found).topk(2, 1).values
    sure = (top[:, 0] - top[:, 1]) > 0.99
    return torch.where(per_row(sure, x), found, x.detach())


@breaks(evasion.does_not_mind_where_inputs_are_normalised)
def sees_the_bare_net(oracle, x, goal, budget, **settings):
    """The net is asked without the declared normalisation (pitfall N1)."""
    bare = replace(oracle.prepared.target, mean=(), std=())
    return climb(type(oracle)(bare, oracle.ledger), x, goal, budget, **settings)


@breaks(evasion.attacks_pixels_that_are_exactly_0_or_1)
def cannot_move_from_the_edge(oracle, x, goal, budget, **settings):
    """In tanh space the derivative at the edges of the box is zero (pitfall N6)."""
    found = climb(oracle, x, goal, budget, **settings)
    return torch.where((x <= 0) | (x >= 1), x, found).detach()


@breaks(evasion.survives_a_constant_model)
def raises_where_no_start_is_found(oracle, x, goal, budget, **settings):
    """One row without a start ends the whole run (pitfall S3)."""
    found = climb(oracle, x, goal, budget, **settings)
    if len(x) and not goal.reached(oracle.logits(found)).any():
        raise ValueError("initialisation failed")
    return found


@breaks(evasion.survives_a_constant_model)
def divides_by_a_zero_gradient(oracle, x, goal, budget, *, steps, rng, tick):
    return _steps(oracle, x, goal, budget, lambda g: budget.eps * g / g.abs().amax(), 3, tick)


@breaks(evasion.keeps_rows_that_are_already_wrong)
def crosses_the_boundary_wherever_it_is(oracle, x, goal, budget, *, steps, rng, tick):
    """Move every row to the other side, also those that stand there already."""

    def across(grad: Tensor) -> Tensor:
        wrong = goal.reached(oracle.logits(x.detach()))
        side = torch.where(wrong, -1.0, 1.0).to(x)
        return budget.eps * steepest(grad, budget.norm) * per_row(side, x)

    return _steps(oracle, x, goal, budget, across, 1, tick)


@breaks(evasion.keeps_rows_that_are_already_wrong, minimum_norm=True)
def moves_rows_that_are_already_there(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    same = per_row((found == x).flatten(1).all(1), x)
    return project(torch.where(same, found + budget.eps / 50, found), x, budget.norm, budget.eps)


@breaks(evasion.does_not_count_what_is_no_number)
def follows_gradients_that_are_no_numbers(oracle, x, goal, budget, *, steps, rng, tick):
    return _steps(
        oracle, x, goal, budget, lambda g: budget.eps * g / per_row(g.flatten(1).abs().amax(1), g), 3, tick
    )


@breaks(evasion.spends_what_it_declares)
def asks_once_more_than_it_says(oracle, x, goal, budget, **settings):
    oracle.labels(x.detach())
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.spends_what_it_declares, cost=lambda p, k: Cost(queries=2 * p.steps, gradients=p.steps))
def asks_less_than_it_says(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings)


@breaks(
    evasion.spends_what_it_declares,
    cost=lambda p, k: Cost(queries=p.steps, gradients=p.steps - 1, exact=False),
)
def exceeds_its_bound(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.spends_what_it_declares)
def asks_about_every_class(oracle, x, goal, budget, **settings):
    """One pass per class that the declared cost does not know of (pitfall G7)."""
    for _ in range(oracle.classes):
        oracle.gradient(x, goal)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.respects_a_limit_of_queries, access=LabelOracle, cost=lambda p, k: Cost(queries=p.steps))
def ignores_the_limit(oracle, x, goal, budget, **settings):
    return try_noise(oracle, x, goal, budget.model_copy(update={"queries": None}), **settings)


@breaks(evasion.spends_what_it_declares)
def hides_its_queries(oracle, x, goal, budget, **settings):
    """Ask an oracle of its own, so that the ledger stays empty."""
    return climb(type(oracle)(Prepared(oracle.prepared.target), len(x)), x, goal, budget, **settings)


@breaks(evasion.stops_when_a_tick_raises)
def swallows_exceptions(oracle, x, goal, budget, **settings):
    with contextlib.suppress(Cancelled):
        return climb(oracle, x, goal, budget, **settings)
    return x.detach().clone()


@breaks(evasion.stops_when_a_tick_raises)
def never_ticks(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(oracle, x, goal, budget, steps=steps, rng=rng)


@breaks(evasion.ticks_in_order)
def counts_steps_from_zero(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=lambda i, n, v: tick(i - 1, n, v))


@breaks(evasion.ticks_in_order)
def starts_counting_anew(oracle, x, goal, budget, *, steps, rng, tick):
    climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)
    return climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)


@breaks(evasion.ticks_in_order)
def reports_tensors(oracle, x, goal, budget, *, steps, rng, tick):
    return climb(
        oracle, x, goal, budget, steps=steps, rng=rng, tick=lambda i, n, v: tick(i, n, {"x": x.sum()})
    )


def does_nothing(oracle, x, goal, budget, **settings):
    climb(oracle, x, goal, budget, **settings)
    return x.detach().clone()


for _promise in (
    evasion.beats_noise_of_the_same_size,
    evasion.fools_an_easy_model,
    evasion.grants_a_target_class,
):
    breaks(_promise)(does_nothing)


@breaks(evasion.takes_any_number_of_classes)
@breaks(evasion.beats_noise_of_the_same_size)
def descends(oracle, x, goal, budget, *, steps, rng, tick):
    """The sign of the loss is wrong."""
    return _steps(oracle, x, goal, budget, lambda g: -budget.eps / 3 * steepest(g, budget.norm), 5, tick)


@breaks(evasion.does_not_weaken_as_the_ball_grows)
def fails_in_large_balls(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found if budget.eps < {"linf": 0.15, "l2": 0.6}[budget.norm] else x.detach().clone()


@breaks(evasion.does_not_weaken_with_more_steps)
def wears_out(oracle, x, goal, budget, *, steps, rng, tick):
    found = climb(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)
    return found if steps <= 10 else x.detach().clone()


@breaks(evasion.grants_a_target_class)
def goes_away_from_the_target(oracle, x, goal, budget, **settings):
    """A targeted attack with the sign of an untargeted one (pitfall G5)."""
    if isinstance(goal, Become):
        goal = Misclassify(goal.t)
    return climb(oracle, x, goal, budget, **settings)


@breaks(evasion.grants_a_target_class)
def knows_labels_only(oracle, x, goal, budget, **settings):
    return climb(oracle, x, Misclassify(goal.y), budget, **settings)


@breaks(
    evasion.finds_the_nearest_of_a_linear_model,
    cost=lambda p, k: Cost(queries=p.steps + 1, gradients=1),
    minimum_norm=True,
)
def stops_too_far_away(oracle, x, goal, budget, **settings):
    found = approach(oracle, x, goal, budget, **settings)
    return project(x + 1.2 * (found - x), x, budget.norm, budget.eps)


@breaks(evasion.keeps_its_successes_with_cheap_gradients)
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
