"""Targets and data of a few weights that tests share."""

import pytest
import torch

from casemate.core.data import Samples
from casemate.core.target import Classifier


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Classifier:
    """Classifier whose logits are `x @ weight.T + bias`, for x (N, D) or images of D values."""
    classes, values = weight.shape
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(values, classes))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(torch.zeros(classes) if bias is None else bias)
    return Classifier(net, classes, (values,))


@pytest.fixture
def two_class() -> Classifier:
    """Two classes in the square: class 1 where x0 > 0.5."""
    return linear(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.0, -0.5]))


@pytest.fixture
def points() -> Samples:
    """Points on a line through the square, with their true class; margin to the boundary 0.05 to 0.45."""
    x0 = torch.tensor([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    return Samples(torch.stack([x0, torch.full_like(x0, 0.5)], 1), (x0 > 0.5).long(), 2)
