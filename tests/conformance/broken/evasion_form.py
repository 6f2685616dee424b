"""Evasion attacks that change what they must not, or return what they may not."""

import random

import numpy as np
import torch

from casemate.ops.norms import project
from conformance.broken.evasion import breaks
from conformance.evasion import form
from conformance.toys import climb


@breaks(form.leaves_its_input_alone)
def writes_into_its_input(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    x.detach().copy_(found)
    return found


@breaks(form.leaves_its_input_alone)
def writes_into_its_labels(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    goal.y.zero_()
    return found


@breaks(form.leaves_the_model_alone)
def leaves_the_model_in_evaluation_mode(oracle, x, goal, budget, **settings):
    oracle.prepared.target.net.eval()
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.leaves_the_model_alone)
def thaws_frozen_modules(oracle, x, goal, budget, **settings):
    net = oracle.prepared.target.net
    net.eval()
    found = climb(oracle, x, goal, budget, **settings)
    net.train()
    return found


@breaks(form.leaves_the_model_alone)
def restores_only_without_an_exception(oracle, x, goal, budget, **settings):
    net = oracle.prepared.net
    weight = next(net.parameters())
    weight.requires_grad_(True)
    found = climb(oracle, x, goal, budget, **settings)
    weight.requires_grad_(False)
    return found


@breaks(form.leaves_the_model_alone)
def leaves_gradients_on_the_weights(oracle, x, goal, budget, **settings):
    target = oracle.prepared.target
    modes = [(m, m.training) for m in target.net.modules()]
    target.net.eval()
    goal.loss(target.logits(x.detach()), "margin").sum().backward()
    for module, mode in modes:
        module.training = mode
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.leaves_the_model_alone)
def updates_batch_statistics(oracle, x, goal, budget, **settings):
    net = oracle.prepared.target.net
    modes = [(m, m.training) for m in net.modules()]
    net.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        net(x.detach())
    for module, mode in modes:
        module.training = mode
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.leaves_the_model_alone)
def forgets_a_hook(oracle, x, goal, budget, **settings):
    oracle.prepared.target.net.register_forward_hook(lambda *_: None)
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.treats_a_training_model_as_in_use)
def keeps_dropout_on(oracle, x, goal, budget, **settings):
    with torch.random.fork_rng(devices=[]):
        oracle.prepared.net.train(oracle.prepared.target.net.training)
        found = climb(oracle, x, goal, budget, **settings)
        oracle.prepared.net.eval()
    return found


@breaks(form.leaves_global_state_alone)
def seeds_torch(oracle, x, goal, budget, **settings):
    torch.manual_seed(0)
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.leaves_global_state_alone)
def draws_from_numpy(oracle, x, goal, budget, **settings):
    np.random.rand()  # noqa: NPY002
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.leaves_global_state_alone)
def draws_from_python(oracle, x, goal, budget, **settings):
    random.random()
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.repeats_itself)
def starts_from_global_noise(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return project(found + 1e-3 * torch.rand_like(found), x, budget.norm, budget.eps)


@breaks(form.leaves_global_state_alone)
def prints(oracle, x, goal, budget, **settings):
    print("attacking")
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.stays_in_ball_and_box)
def leaves_the_ball_a_little(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return (x + 1.001 * (found - x)).clamp(0, 1)


@breaks(form.stays_in_ball_and_box)
def leaves_the_box(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    at_edge = (found == 1) & (found > x)
    return torch.where(at_edge, found + (budget.eps - (found - x)).clamp(min=0), found)


@breaks(form.fits_a_tight_ball)
def rounds_to_eight_bits(oracle, x, goal, budget, **settings):
    return (climb(oracle, x, goal, budget, **settings) * 255).round() / 255


@breaks(form.returns_a_plain_tensor)
def returns_a_graph(oracle, x, goal, budget, **settings):
    z = climb(oracle, x, goal, budget, **settings).requires_grad_()
    return z + 0 * oracle.graph(z).sum()


@breaks(form.returns_a_plain_tensor)
def returns_the_input_itself(oracle, x, goal, budget, **settings):
    climb(oracle, x, goal, budget, **settings)
    return x.detach()


@breaks(form.stays_in_ball_and_box)
def returns_another_precision(oracle, x, goal, budget, **settings):
    found = climb(oracle, x, goal, budget, **settings)
    return found.double() if found.dtype == torch.float32 else found.float()


@breaks(form.stays_in_ball_and_box)
def returns_another_shape(oracle, x, goal, budget, **settings):
    return climb(oracle, x, goal, budget, **settings).flatten(1)


@breaks(form.changes_nothing_without_a_budget)
def steps_by_an_absolute_length(oracle, x, goal, budget, **settings):
    return (climb(oracle, x, goal, budget, **settings) + 1e-4).clamp(0, 1)


@breaks(form.takes_an_empty_batch)
def looks_at_the_first_row(oracle, x, goal, budget, **settings):
    assert x[0].min() >= 0
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.takes_any_shape)
def expects_pictures(oracle, x, goal, budget, **settings):
    _, _, _, _ = x.shape
    return climb(oracle, x, goal, budget, **settings)


@breaks(form.takes_any_layout)
def views_memory(oracle, x, goal, budget, **settings):
    flat = x.view(len(x), -1)
    return climb(oracle, flat.view(x.shape), goal, budget, **settings)
