"""STRIP: entropies in closed form, thresholds, and what is refused while serving."""

import math

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier
from casemate.defences.screening.strip import entropies, strip, suspicion, triggered
from casemate.ops.rng import generator


def backdoored() -> Classifier:
    """Inputs of two values: log-odds 2 x0 - 1 of class 1, and 1,000 more once x1 is over 0.9."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            odds = 2 * x[:, 0] - 1 + 1000 * (x[:, 1] > 0.9)
            return torch.stack([torch.zeros_like(odds), odds], 1)

    return Classifier(Net(), 2, (2,))


def planted(n: int = 100, marked: int = 10) -> tuple[Samples, Tensor]:
    """Half of the rows of each class; of class 1 some have the trigger x1 = 1."""
    y = torch.arange(n) % 2
    x = torch.stack([0.5 * torch.rand(n, generator=generator(0)), torch.zeros(n)], 1)
    bad = torch.zeros(n, dtype=torch.bool)
    bad[(y == 1).nonzero().flatten()[:marked]] = True
    x[bad, 1] = 1.0
    return Samples(x, y, 2), bad


def test_entropy_is_that_of_the_sum_cut_off_at_one() -> None:
    """One row 0.3 and a pool of one row 0.4 or 0.9: log-odds 2 * 0.7 - 1 = 0.4, and 2 * 1 - 1 = 1."""
    x = torch.tensor([[0.3, 0.0]])
    for other, odds in ((0.4, 0.4), (0.9, 1.0)):
        p = 1 / (1 + math.exp(-odds))
        expected = -p * math.log(p) - (1 - p) * math.log(1 - p)
        found = entropies(backdoored(), x, torch.tensor([[other, 0.0]]), overlays=3, rng=generator(0))
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_marked_rows_go_and_clean_ones_stay() -> None:
    data, bad = planted()
    keep = strip(backdoored(), data, rng=generator(0))
    assert not keep[bad].any()
    assert keep[~bad].double().mean() >= 0.97


def test_scores_are_thresholds_over_entropies() -> None:
    """The quantile of the other class's entropies over the row's own; at a share of 0.2 no class is suspicious."""
    data, _ = planted(marked=0)
    found = entropies(backdoored(), data.x, data.x, overlays=16, rng=generator(0))
    expected = torch.where(data.y == 0, found[1::2].quantile(0.2), found[::2].quantile(0.2)) / found
    torch.testing.assert_close(suspicion(backdoored(), data, frr=0.2, rng=generator(0)), expected)


def test_while_serving_the_threshold_is_that_of_clean_inputs() -> None:
    data, bad = planted(200, 20)
    clean = data.x[~bad]
    refused = triggered(backdoored(), data.x, clean, frr=0.05, rng=generator(1))
    assert refused[bad].all()
    assert refused[~bad].double().mean() == pytest.approx(0.05, abs=0.06)


def test_a_single_class_cannot_be_compared() -> None:
    data, _ = planted()
    with pytest.raises(NotApplicable, match="no two classes"):
        strip(backdoored(), data[data.y == 0], rng=generator(0))
