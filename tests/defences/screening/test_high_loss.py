"""Loss screening: wrong labels stand out under nets that have not seen them."""

import math

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier
from casemate.defences.screening.high_loss import high_loss, suspicion
from casemate.ops.rng import generator


def two_sides(flipped: int = 6) -> tuple[Classifier, Samples, Tensor]:
    """Rows left and right of 1/2, some with the other side's label, and a net that never learnt anything."""
    x = torch.rand(120, 2, generator=generator(0)) * 0.3
    y = torch.arange(120) % 2
    x[y == 1, 0] += 0.6
    bad = torch.arange(120) < flipped
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
    return Classifier(net, 2, (2,)), Samples(x, torch.where(bad, 1 - y, y), 2), bad


def test_wrong_labels_go_although_the_model_knows_nothing() -> None:
    model, data, bad = two_sides()
    assert torch.equal(high_loss(model, data, lr=0.02, rng=generator(0)), ~bad)


def test_scores_are_losses_over_the_threshold() -> None:
    """The default is the loss of a guess, log 2."""
    model, data, _ = two_sides()
    usual = suspicion(model, data, rng=generator(0))
    torch.testing.assert_close(
        suspicion(model, data, threshold=3.0, rng=generator(0)), usual * math.log(2) / 3
    )


def test_too_few_rows_and_layers_that_cannot_be_drawn_anew_are_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model, data, _ = two_sides()
    with pytest.raises(NotApplicable, match="at least 6 rows"):
        high_loss(model, data[:5], rng=generator(0))
    with pytest.raises(NotApplicable, match="its Own layer"):
        high_loss(Classifier(Own(), 2, (2,)), data, rng=generator(0))
