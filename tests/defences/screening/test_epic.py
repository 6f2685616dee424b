"""EPIC: gradients, isolated medoids, and rows that are dropped in the course of a training."""

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier
from casemate.defences.screening.epic import epic, gradients, isolated
from casemate.ops.rng import generator


def test_gradients_are_those_of_the_loss_by_the_logits() -> None:
    net = nn.Linear(3, 4)
    x, y = torch.rand(5, 3, generator=generator(0)), torch.tensor([0, 1, 2, 3, 0])
    logits = net(x).detach().requires_grad_()
    nn.functional.cross_entropy(logits, y, reduction="sum").backward()
    torch.testing.assert_close(gradients(Classifier(net, 4, (3,)), Samples(x, y, 4)), logits.grad)


def test_a_medoid_that_stands_for_itself_alone_is_isolated() -> None:
    """Two tight groups of ten and one point far away, of one class; three medoids in all.

    The other class is one tight group: its medoid stands for all of it.
    """
    rng = generator(0)
    groups = [c + 0.01 * torch.randn(10, 2, generator=rng) for c in (0.0, 1.0, 0.5)]
    points = torch.cat([groups[0], groups[1], torch.tensor([[5.0, 5.0]]), groups[2]])
    y = torch.tensor([0] * 21 + [1] * 10)
    assert isolated(points, y, 3 / 21 + 1e-6).nonzero().flatten().tolist() == [20]


def separable(n: int = 120) -> Samples:
    rng = generator(1)
    y = torch.arange(n) % 3
    return Samples(torch.randn(n, 6, generator=rng) * 0.3 + torch.eye(3, 6)[y] * 2, y, 3)


def build() -> Classifier:
    return Classifier(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), 3, (6,))


def test_rows_that_pull_where_no_other_row_pulls_are_dropped() -> None:
    """One row of class 0 and one of class 2 with label 1: about (1, -1, 0) and (0, -1, 1), far from all others.

    Several such rows of one kind would stand for each other, and stay.
    """
    data = separable()
    rows = torch.tensor([0, 2])
    y = data.y.clone()
    y[rows] = 1
    keep = epic(build(), Samples(data.x, y, 3), rounds=3, rng=generator(0))
    assert not keep[rows].any()
    assert float(keep.double().mean()) > 0.8


def test_the_weights_of_the_given_model_play_no_part() -> None:
    first, second = (epic(build(), separable(), rounds=2, rng=generator(0)) for _ in range(2))
    assert torch.equal(first, second)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(NotApplicable, match="two rows"):
        epic(build(), separable()[slice(0, 1)], rng=generator(0))
