"""A training played through takes the steps that the recipe's own training takes."""

from functools import partial

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import untrained
from casemate.core.online import online
from casemate.core.recipe import Recipe
from casemate.core.rehearsal import Mixture, Rehearsal
from casemate.core.target import Classifier
from casemate.ops.rng import generator


def small() -> nn.Linear:
    return nn.Linear(4, 3)


def data(n: int = 16) -> Samples:
    return Samples(torch.rand(n, 4, generator=generator(0)), torch.arange(n) % 3, 3)


def model() -> Classifier:
    net = small()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.rand(p.shape, generator=generator(1)))
    return Classifier(net, 3, (4,))


def test_a_rehearsal_of_whole_batches_ends_at_the_weights_of_the_training() -> None:
    """One batch holds all rows, so that the order, which the two draw differently, plays no part."""
    rows, start = data(), model()
    recipe = online(Recipe(small, "linear", epochs=6, batch=16, lr=0.05, weight_decay=0.1), start)
    trained = recipe(rows, rng=generator(2))
    of = untrained(recipe, rows.x, generator(3))
    victim = Rehearsal(of, recipe, len(rows))
    stage = victim.begin()
    for _ in range(6):
        assert not victim.over(stage)
        stage = victim.advance(stage, [lambda weights: of.loss(weights, rows.x, rows.y)])
    assert victim.over(stage)
    for ours, theirs in zip(stage.weights, trained.net.parameters(), strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-6)


def test_only_plain_descent_is_played_through() -> None:
    def other(net: nn.Module, x: torch.Tensor, y: torch.Tensor, /, *, rng: torch.Generator) -> torch.Tensor:
        return net(x).square().mean()

    recipe = Recipe(small, "linear", batch_loss=other)
    with pytest.raises(NotApplicable, match="'linear' does not descend cross-entropy alone"):
        Rehearsal(untrained(recipe, data().x, generator(3)), recipe, 16)


def test_weights_after_a_step_are_differentiated_by_what_was_learnt_with_the_step_size_held() -> None:
    """The first step of Adam from no means is lr_0 g / |g|; with |g| held, d(sum w)/dx = -lr_0 sum_j g_j'(x) / |g_j|."""
    start = model()
    recipe = online(Recipe(small, "linear", epochs=6, batch=16, lr=0.05), start)
    of = untrained(recipe, data().x, generator(3))
    victim = Rehearsal(of, recipe, 16)
    x, y = data().x[:2].clone().requires_grad_(), data().y[:2]
    after = victim.advance(victim.begin(), [partial(of.loss, x=x, y=y)])
    (found,) = torch.autograd.grad(torch.stack([w.sum() for w in after.weights]).sum(), x)
    at = [w.requires_grad_() for w in (v.clone() for v in of.start())]
    slopes = torch.autograd.grad(of.loss(at, x, y), at, create_graph=True)
    scaled = torch.stack([(g / (g.detach().abs() + 1e-8)).sum() for g in slopes]).sum()
    (wanted,) = torch.autograd.grad(-0.05 / 25 * scaled, x)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_poison_counts_for_its_share_however_few_rows_a_batch_has_of_it() -> None:
    rows, of = data(), untrained(Recipe(small, "linear"), data().x, generator(3))
    weights = of.start()
    one = Samples(rows.x[:1], rows.y[:1], 3)
    mixture = Mixture(one, 0.01, 16)
    assert mixture.poisons == 1
    found = mixture.loss(of, weights, rows.x[1:2], rows.y[1:2], generator(0))
    wanted = 0.99 * of.loss(weights, rows.x[:1], rows.y[:1]) + 0.01 * of.loss(
        weights, rows.x[1:2], rows.y[1:2]
    )
    torch.testing.assert_close(found, wanted)
    nothing_else = Mixture(rows[:0], 0.5, 16).loss(of, weights, rows.x, rows.y, generator(0))
    torch.testing.assert_close(nothing_else, of.loss(weights, rows.x, rows.y))
