import torch
from torch import nn

from casemate.assess.checks import inspect_gradients
from casemate.core.data import Samples
from casemate.core.target import Classifier, Prepared


class NoGradient(nn.Module):
    """Right on both classes; the square root of zero has the gradient 0 * infinity, which is NaN."""

    def forward(self, x):
        first = x[:, :1]
        return torch.cat([0.5 - first, first - 0.5], 1) + torch.sqrt(0 * first)


def test_a_gradient_that_is_no_number_counts_as_none():
    target = Classifier(NoGradient(), 2, (2,))
    samples = Samples(torch.tensor([[0.2, 0.0], [0.9, 0.0]]), torch.tensor([0, 1]), 2)
    codes = {flag.code for flag in inspect_gradients(Prepared(target), samples, 0)}
    assert "zero-gradient" in codes
