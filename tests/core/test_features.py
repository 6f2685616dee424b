"""Features are the input of the layer that classifies."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.compiled import MANY
from casemate.core.errors import NotApplicable
from casemate.core.features import penultimate
from casemate.core.target import Classifier
from casemate.ops.rng import generator

X = torch.rand(7, 4, generator=generator(0))


class Noisy(nn.Module):
    """A layer that answers at random, in evaluation as well."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Head(nn.Module):
    """A net whose layers are listed in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(5, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def test_features_are_those_that_the_logits_are_linear_in() -> None:
    net = Head()
    features = penultimate(Classifier(net, 3, (4,), mean=(0.2,), std=(0.5,)), X, batch=3)
    expected = torch.tanh(net.first((X - 0.2) / 0.5)).detach()
    torch.testing.assert_close(features, expected)
    assert not features.requires_grad


def test_a_softmax_behind_the_layer_does_not_matter() -> None:
    net = Head()
    plain = penultimate(Classifier(net, 3, (4,)), X)
    assert torch.equal(penultimate(Classifier(nn.Sequential(net, nn.Softmax(1)), 3, (4,)), X), plain)


def test_the_net_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    penultimate(Classifier(net, 3, (4,)), X)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert not any(layer._forward_hooks for layer in net)


def test_a_net_that_does_not_end_in_a_linear_layer_is_refused() -> None:
    for net in (
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    ):
        with pytest.raises(NotApplicable, match="does not end in a linear layer"):
            penultimate(Classifier(net, 3, (4,)), X)


def test_no_rows_have_no_features() -> None:
    assert len(penultimate(Classifier(Head(), 3, (4,)), X[:0])) == 0


def test_many_rows_at_a_time_have_the_same_features_as_few() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 6),
        nn.Tanh(),
        nn.Linear(6, 2),
    )
    x = torch.rand(MANY, 1, 8, 8, generator=generator(1))
    model = Classifier(net, 2, (1, 8, 8), mean=(0.3,), std=(0.4,))
    expected = net[:-1]((x - 0.3) / 0.4).detach()
    torch.testing.assert_close(penultimate(model, x, batch=MANY), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        penultimate(model, x[: MANY - 1], batch=7), expected[:-1], atol=1e-5, rtol=1e-4
    )


def test_features_behind_a_step_of_chance_are_not_compiled_away() -> None:
    model = Classifier(nn.Sequential(Noisy(), nn.Linear(4, 2)), 2, (4,))
    x = torch.zeros(MANY, 4)
    assert not torch.equal(penultimate(model, x), penultimate(model, x))
