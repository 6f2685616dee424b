"""Evasion attacks that some classifiers defeat without being robust."""

from dataclasses import replace

import torch
from torch import Tensor

from casemate.ops.norms import per_row, project, steepest
from conformance.broken.evasion import breaks, walk
from conformance.evasion import classifiers
from conformance.toys import climb, finite


@breaks(classifiers.takes_any_number_of_classes)
def needs_three_classes(oracle, x, goal, budget, **settings):
    oracle.logits(x.detach()).topk(3, 1)
    return climb(oracle, x, goal, budget, **settings)


@breaks(classifiers.takes_any_number_of_classes)
def knows_ten_classes(oracle, x, goal, budget, **settings):
    torch.nn.functional.one_hot(goal.y, 10)
    return climb(oracle, x, goal, budget, **settings)


@breaks(classifiers.takes_a_single_class)
def needs_another_class(oracle, x, goal, budget, **settings):
    oracle.logits(x.detach()).topk(2, 1)
    return climb(oracle, x, goal, budget, **settings)


def climb_by(oracle, x, goal, budget, loss, tick, guard=0.0):
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


@breaks(classifiers.does_not_mind_shifted_logits)
def has_a_zero_among_the_other_classes(oracle, x, goal, budget, *, steps, rng, tick):
    """The margin's maximum over other classes includes a 0, so it looks won below 0 (pitfall G1)."""

    def margin(logits: Tensor, y: Tensor) -> Tensor:
        own = torch.nn.functional.one_hot(y, logits.shape[1])
        return ((1 - own) * logits).amax(1) - (own * logits).sum(1)

    def stuck(logits: Tensor, y: Tensor) -> Tensor:
        return margin(logits, y).clamp(max=0)

    return climb_by(oracle, x, goal, budget, stuck, tick)


@breaks(classifiers.does_not_mind_scaled_logits)
def saturates(oracle, x, goal, budget, *, steps, rng, tick):
    """Cross-entropy of confident rows has no gradient (pitfall G2)."""
    loss = torch.nn.functional.cross_entropy
    return climb_by(oracle, x, goal, budget, lambda z, y: loss(z, y, reduction="none"), tick)


@breaks(classifiers.does_not_mind_scaled_logits)
def guards_by_an_absolute_number(oracle, x, goal, budget, *, steps, rng, tick):
    """A small gradient is divided by 1e-3 and loses its length."""
    return climb_by(oracle, x, goal, budget, lambda z, y: goal.loss(z, "margin"), tick, guard=1e-3)


@breaks(classifiers.reads_probabilities)
def takes_probabilities_for_logits(oracle, x, goal, budget, **settings):
    net = oracle.prepared.net
    found = climb(oracle, x, goal, budget, **settings)
    top = net(found).topk(2, 1).values
    sure = (top[:, 0] - top[:, 1]) > 0.99
    return torch.where(per_row(sure, x), found, x.detach())


@breaks(classifiers.does_not_mind_where_inputs_are_normalised)
def sees_the_bare_net(oracle, x, goal, budget, **settings):
    """The net is asked without the declared normalisation (pitfall N1)."""
    bare = replace(oracle.prepared.target, mean=(), std=())
    return climb(type(oracle)(bare, oracle.ledger), x, goal, budget, **settings)


@breaks(classifiers.attacks_pixels_that_are_exactly_0_or_1)
def cannot_move_from_the_edge(oracle, x, goal, budget, **settings):
    """In tanh space the derivative at the edges of the box is zero (pitfall N6)."""
    found = climb(oracle, x, goal, budget, **settings)
    return torch.where((x <= 0) | (x >= 1), x, found).detach()


@breaks(classifiers.survives_a_constant_model)
def raises_where_no_start_is_found(oracle, x, goal, budget, **settings):
    """One row without a start ends the whole run (pitfall S3)."""
    found = climb(oracle, x, goal, budget, **settings)
    if len(x) and not goal.reached(oracle.logits(found)).any():
        raise ValueError("initialisation failed")
    return found


@breaks(classifiers.survives_a_constant_model)
def divides_by_a_zero_gradient(oracle, x, goal, budget, *, steps, rng, tick):
    return walk(oracle, x, goal, budget, lambda g: budget.eps * g / g.abs().amax(), 3, tick)


@breaks(classifiers.keeps_rows_that_are_already_wrong)
def crosses_the_boundary_wherever_it_is(oracle, x, goal, budget, *, steps, rng, tick):
    """Move every row to the other side, also those that stand there already."""

    def across(grad: Tensor) -> Tensor:
        wrong = goal.reached(oracle.logits(x.detach()))
        side = torch.where(wrong, -1.0, 1.0).to(x)
        return budget.eps * steepest(grad, budget.norm) * per_row(side, x)

    return walk(oracle, x, goal, budget, across, 1, tick)


@breaks(classifiers.keeps_rows_that_are_already_wrong, minimum_norm=True)
def moves_rows_that_are_already_there(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    same = per_row((found == x).flatten(1).all(1), x)
    return project(torch.where(same, found + budget.eps / 50, found), x, budget.norm, budget.eps)


@breaks(classifiers.does_not_count_what_is_no_number)
def follows_gradients_that_are_no_numbers(oracle, x, goal, budget, *, steps, rng, tick):
    return walk(
        oracle, x, goal, budget, lambda g: budget.eps * g / per_row(g.flatten(1).abs().amax(1), g), 3, tick
    )
