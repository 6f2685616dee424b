"""Pitfalls S4 and S5: versions of numpy and torch, and targets that answer at random."""

import numpy as np
import pytest
import torch
from torch import nn

from casemate.assess.checks import SERIOUS, inspect_outputs
from casemate.core.registry import entries
from casemate.core.target import Classifier
from conformance import models
from conformance.subject import Subject


@pytest.mark.parametrize("entry", entries("evasion"), ids=lambda e: e.name)
def test_S4_numbers_of_numpy_do_not_lift_the_precision(entry):
    """Under numpy 2 a float64 scalar wins over float32 arrays; results stay float32."""
    subject = Subject(entry, entry.norms[0], torch.float32)
    eps = np.float64(subject.eps)
    assert subject.attack(models.linear(dtype=torch.float32), eps=eps).x_adv.dtype == torch.float32


class Restless(nn.Module):
    """A net that adds fresh noise to its logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] + 0.1 * torch.rand(len(x), 3)


def test_S5_a_target_that_answers_at_random_is_noticed_and_never_holds():
    """Two clean passes disagree, and the flag forbids the verdict 'holds'."""
    x = models.inputs(8, (1, 4, 4))
    with torch.random.fork_rng(devices=[]):
        flags = {flag.code for flag in inspect_outputs(Classifier(Restless(), 3, (1, 4, 4)), x)}
    assert "randomised" in flags
    assert "randomised" in SERIOUS


def test_S5_a_target_that_repeats_itself_is_not_suspected():
    """Dropout left in training mode is judged in evaluation mode, where it is still."""
    setting = models.in_training(torch.float32)
    flags = {flag.code for flag in inspect_outputs(setting.target, setting.x)}
    assert flags == {"batch-norm-train-mode"}
