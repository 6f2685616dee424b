"""Losses of teacher and student in closed form."""

import math

import pytest
import torch
from torch import nn

from casemate.builtin.target import recipe
from casemate.core.errors import UsageError
from casemate.defences.training.distillation import Tempered, distillation
from casemate.defences.training.gaussian import gaussian
from casemate.ops.rng import generator


class Given(nn.Module):
    """Answer every row with the same logits."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_teacher_and_student_learn_at_the_temperature():
    """At T = 2 logits (2 ln 3, 0) have probabilities 3/4, 1/4, and the teacher's (0, 0) are 1/2, 1/2.

    The teacher's loss on class 0 is -ln 3/4; the student's -(ln 3/4 + ln 1/4) / 2, whatever the label.
    """
    net, x, y = Given(2 * math.log(3), 0.0), torch.zeros(1, 2), torch.tensor([0])
    alone = Tempered(2.0)(net, x, y, rng=generator(0))
    taught = Tempered(2.0, Given(0.0, 0.0))(net, x, y, rng=generator(0))
    assert float(alone) == pytest.approx(-math.log(3 / 4), abs=1e-6)
    assert float(taught) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2, abs=1e-6)


def test_a_loss_that_another_defence_replaced_is_refused():
    with pytest.raises(UsageError, match="must be cross_entropy"):
        distillation(gaussian(recipe()))
