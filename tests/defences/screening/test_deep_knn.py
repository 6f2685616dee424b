"""Deep k-NN against a vote counted row by row."""

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.target import Classifier
from casemate.defences.screening.deep_knn import deep_knn, suspicion
from casemate.ops.rng import generator


def spy(classes: int = 3) -> Classifier:
    """A net whose features are its inputs."""
    return Classifier(nn.Sequential(nn.Identity(), nn.Linear(2, classes)), classes, (2,))


def test_votes_are_those_of_the_nearest_rows() -> None:
    """Brute force: sort all distances of a row, count labels of the first k others."""
    x, y = torch.rand(40, 2, generator=generator(0)), torch.arange(40) % 3
    found = suspicion(spy(), Samples(x, y, 3), k=7, rng=generator(0))
    for i in range(40):
        order = sorted((j for j in range(40) if j != i), key=lambda j: float((x[i] - x[j]).square().sum()))
        votes = [sum(int(y[j]) == c for j in order[:7]) for c in range(3)]
        others = max(v for c, v in enumerate(votes) if c != int(y[i]))
        assert float(found[i]) == pytest.approx(others / max(votes[int(y[i])], 0.5))


def test_wrong_labels_go_and_a_tie_stays() -> None:
    near = torch.rand(60, 2, generator=generator(1)) * 0.1
    x = near + 0.8 * (torch.arange(60) % 2)[:, None]
    y = torch.arange(60) % 2
    y[:6] = 1 - y[:6]
    keep = deep_knn(spy(2), Samples(x, y, 2), k=11, rng=generator(0))
    assert keep.tolist() == [False] * 6 + [True] * 54
    # two rows of other labels around: one vote each
    pair = Samples(torch.tensor([[0.5, 0.5], [0.4, 0.5], [0.6, 0.5]]), torch.tensor([0, 0, 1]), 2)
    assert deep_knn(spy(2), pair, k=2, rng=generator(0))[0]


def test_a_single_row_stays() -> None:
    assert deep_knn(spy(), Samples(torch.zeros(1, 2), torch.zeros(1).long(), 3), rng=generator(0)).all()
