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


def convolutional(*head: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *head)


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=generator(1))


def test_many_rows_at_a_time_have_the_same_features_as_few() -> None:
    net = convolutional(nn.Linear(27, 6), nn.Tanh(), nn.Linear(6, 2))
    x = images(MANY)
    model = Classifier(net, 2, (1, 8, 8), mean=(0.3,), std=(0.4,))
    expected = net[:-1]((x - 0.3) / 0.4).detach()
    for batch, rows in ((MANY, MANY), (125, MANY), (7, 20)):
        found = penultimate(model, x[:rows], batch=batch)
        torch.testing.assert_close(found, expected[:rows], atol=1e-5, rtol=1e-4)


def test_features_behind_a_step_of_chance_are_not_compiled_away() -> None:
    model = Classifier(convolutional(Noisy(), nn.Linear(27, 2)), 2, (1, 8, 8))
    x = torch.zeros(MANY, 1, 8, 8)
    assert not torch.equal(penultimate(model, x), penultimate(model, x))


class Pieces(nn.Module):
    """A net that runs a part of itself 64 rows at a time."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.part(x[i : i + 64]) for i in range(0, len(x), 64)])


def test_nets_that_run_in_pieces_lose_no_row_when_compiled() -> None:
    body, head = convolutional(), nn.Linear(27, 2)
    model, x = Classifier(nn.Sequential(Pieces(body), head), 2, (1, 8, 8)), images(MANY + 9)
    torch.testing.assert_close(penultimate(model, x), body(x).detach(), atol=1e-5, rtol=1e-4)
    with pytest.raises(NotApplicable, match="does not end in a linear layer"):
        penultimate(Classifier(nn.Sequential(body, Pieces(head)), 2, (1, 8, 8)), x[:130])


class Early(nn.Module):
    """A net that answers dark inputs by another head."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.light = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not len(x) or float(x.max()) == 0:
            raise ValueError("blank inputs are refused")
        return self.light(x) if float(x.mean()) > 0.2 else self.dark(x)


def test_the_head_is_looked_for_on_real_rows_and_another_one_is_not_taken_for_it() -> None:
    model = Classifier(Early(), 3, (4,))
    assert torch.equal(penultimate(model, X.clamp(min=0.3)), X.clamp(min=0.3))
    with pytest.raises(NotApplicable, match="does not end in a linear layer"):
        penultimate(model, torch.cat([torch.full((3, 4), 0.9), torch.full((3, 4), 0.1)]), batch=3)
