"""The watcher's class, its threshold, and the loss of an attack that knows it."""

import pytest
import torch
from torch import nn

from casemate.core.errors import UsageError
from casemate.core.target import Classifier
from casemate.defences.training.detector import ENOUGH, FEAR, SAFE, Unaware, Watched, calibrated, evading


class First(nn.Module):
    """The first value as the only logit of a watcher."""

    def forward(self, x):
        return x[:, :1]


def watched():
    """Two classes by the second value, logits (x2, 1 - x2); the alarm is x1."""
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
        net.bias.copy_(torch.tensor([0.0, 1.0]))
    return Classifier(Watched(net, First()).eval(), 3, (2,))


def test_the_threshold_lets_the_share_of_clean_inputs_pass():
    """Alarms 0, 1, .. 20: the 95% quantile is 19, so only 20 is above it."""
    clean = torch.stack([torch.arange(21.0), torch.zeros(21)], 1)
    model = calibrated(watched(), clean, 0.05)
    rejected = model.net(clean).argmax(1) == 2
    assert rejected.tolist() == [False] * 20 + [True]


def test_only_detectors_are_calibrated():
    with pytest.raises(UsageError, match="must be a detector's"):
        calibrated(Classifier(nn.Linear(2, 2), 2, (2,)), torch.zeros(4, 2))


def test_a_wrong_class_counts_only_if_it_passes():
    """Logits of classes 0, 1 and rejected; the truth is 0."""
    logits = torch.tensor([[0.0, 1.0, 0.5], [0.0, 1.0, 1.5], [1.0, 0.0, 0.5]])
    y = torch.zeros(3, dtype=torch.int64)
    assert evading(y).reached(logits).tolist() == [True, False, False]
    assert Unaware(y).reached(logits).tolist() == [True, True, False]


def test_the_loss_weighs_the_alarm_and_stops_asking_where_both_are_good_enough():
    """Margin z1 - z0 and alarm z2 - max(z0, z1): (1, 3), (5, 3) and (5, -4), so the last is capped twice."""
    logits = torch.tensor([[0.0, 1.0, 4.0], [0.0, 5.0, 8.0], [0.0, 5.0, 1.0]])
    found = evading(torch.zeros(3, dtype=torch.int64)).loss(logits)
    expected = [1 - FEAR * 3, ENOUGH - FEAR * 3, ENOUGH + FEAR * SAFE]
    assert torch.allclose(found, torch.tensor(expected))
