"""Features are the input of the layer that classifies."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.features import penultimate
from casemate.core.target import Classifier
from casemate.ops.rng import generator

X = torch.rand(7, 4, generator=generator(0))


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
