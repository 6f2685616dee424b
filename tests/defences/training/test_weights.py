"""The worst weights nearby, and the mean of the weights."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.defences.training.adversarial import adversarial
from casemate.defences.training.weights import WorstWeights, unit
from casemate.ops.rng import generator

X = torch.rand(6, 3, generator=generator(0))
Y = torch.tensor([0, 1, 1, 0, 1, 0])
DATA = Samples(X, Y, 2)


def test_gradients_are_those_at_the_moved_weights() -> None:
    """w moves to w + gamma |w| g / |g|, the bias stays; the reference is computed at that place."""
    net = nn.Linear(3, 2)
    elsewhere = nn.Linear(3, 2)
    elsewhere.load_state_dict(net.state_dict())
    (grad,) = torch.autograd.grad(F.cross_entropy(net(X), Y), net.weight)
    with torch.no_grad():
        elsewhere.weight += 0.1 * net.weight.norm() * grad / grad.norm()
    before = net.weight.detach().clone()
    loss = WorstWeights(cross_entropy, 0.1)(net, X, Y, rng=generator(0))
    loss.backward()
    expected = F.cross_entropy(elsewhere(X), Y)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(net.weight.grad, elsewhere.weight.grad)
    torch.testing.assert_close(net.bias.grad, elsewhere.bias.grad)
    assert torch.equal(net.weight, before)
    assert loss > F.cross_entropy(net(X), Y)


def test_directions_of_tiny_gradients_survive() -> None:
    torch.testing.assert_close(unit(torch.tensor([3e-30, 4e-30])), torch.tensor([0.6, 0.8]))
    assert torch.equal(unit(torch.zeros(2)), torch.zeros(2))


def test_options_change_the_recipe_and_its_digest() -> None:
    plain = Recipe(partial(nn.Linear, 3, 2), "linear", epochs=1)
    digests = {adversarial(plain, **options).digest() for options in ({}, {"awp": 0.005}, {"average": 0.9})}
    assert len(digests) == 3
    assert adversarial(plain, awp=0.005)(DATA, rng=generator(0)).net is not None


def test_the_mean_of_the_weights_is_the_running_mean() -> None:
    """Two steps on whole data, average 0.5: from the start w0 by min(0.5, 1/11), then min(0.5, 2/12)."""
    recipe = Recipe(partial(nn.Linear, 3, 2), "linear", epochs=2, batch=6, lr=0.1)
    seen: list[torch.Tensor] = []

    def spy(net: nn.Module, x: torch.Tensor, y: torch.Tensor, /, *, rng: torch.Generator) -> torch.Tensor:
        seen.append(net.weight.detach().clone())  # type: ignore[operator, arg-type]
        return cross_entropy(net, x, y, rng=rng)

    last = replace(recipe, batch_loss=spy)(DATA, rng=generator(1)).net.weight
    seen.clear()
    mean = replace(recipe, batch_loss=spy, average=0.5)(DATA, rng=generator(1)).net.weight
    expected = torch.lerp(torch.lerp(seen[0], seen[1], 10 / 11), last, 10 / 12)  # type: ignore[arg-type]
    torch.testing.assert_close(mean, expected)


def test_batch_statistics_fit_the_averaged_weights() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    net = Recipe(make, "norm", epochs=3, batch=6, lr=0.1, average=0.9)(DATA, rng=generator(0)).net
    inner = net[0](X)  # type: ignore[index]
    torch.testing.assert_close(net[1].running_mean, inner.mean(0))  # type: ignore[index]
    torch.testing.assert_close(net[1].running_var, inner.var(0))  # type: ignore[index]
    assert net[1].momentum == 0.1  # type: ignore[index]


def test_the_share_kept_is_below_one() -> None:
    with pytest.raises(UsageError, match="average"):
        Recipe(partial(nn.Linear, 3, 2), "linear", average=1.0)
