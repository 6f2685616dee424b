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
    found = suspicion(spy(), Samples(x, y, 3), k=6, rng=generator(0))
    for i in range(40):
        order = sorted((j for j in range(40) if j != i), key=lambda j: float((x[i] - x[j]).square().sum()))
        votes = [sum(int(y[j]) == c for j in order[:6]) for c in range(3)]
        others = max(v for c, v in enumerate(votes) if c != int(y[i]))
        assert float(found[i]) == pytest.approx(others / max(votes[int(y[i])], 0.5))


def test_wrong_labels_go_and_a_tie_stays() -> None:
    near = torch.rand(60, 2, generator=generator(1)) * 0.1
    x = near + 0.8 * (torch.arange(60) % 2)[:, None]
    y = torch.arange(60) % 2
    y[:6] = 1 - y[:6]
    keep = deep_knn(spy(2), Samples(x, y, 2), k=11, rng=generator(0))
    assert keep.tolist() == [False] * 6 + [True] * 54
    # the first row's two neighbours are of either label: one vote each
    x = torch.tensor([[0.5, 0.5], [0.4, 0.5], [0.6, 0.5], [0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    tied = suspicion(spy(2), Samples(x, torch.tensor([0, 0, 1, 0, 0, 0]), 2), k=2, rng=generator(0))
    assert float(tied[0]) == 1


def test_no_clean_row_of_a_small_class_is_outvoted_for_want_of_its_like() -> None:
    """Classes of 5, 25 and 60 rows, far apart: the nearest 2, 12 and 29 others of a row are all of its label."""
    y = torch.cat([torch.full((n,), c) for c, n in enumerate((5, 25, 60))])
    x = torch.rand(len(y), 2, generator=generator(2)) * 0.1 + 0.4 * y[:, None]
    assert not suspicion(spy(), Samples(x, y, 3), rng=generator(0)).any()


def test_a_wrong_label_is_found_by_half_as_many_voters_as_its_class_has_others() -> None:
    """One row of nine lies among the other class: its four voters are all of that one; it alone goes."""
    y = torch.tensor([0] * 9 + [1] * 20)
    x = torch.rand(29, 2, generator=generator(3)) * 0.1 + 0.8 * y[:, None]
    x[8] = torch.tensor([0.85, 0.85])
    found = suspicion(spy(2), Samples(x, y, 2), rng=generator(0))
    assert (found > 1).nonzero().flatten().tolist() == [8]
    assert float(found[8]) == 4 / 0.5


def test_a_class_too_small_to_be_judged_is_kept() -> None:
    """Six rows of class 1 lie among those of class 0: two voters cannot tell a poison from its victims."""
    y = torch.tensor([0] * 30 + [1] * 6)
    data = Samples(torch.rand(36, 2, generator=generator(4)), y, 2)
    assert suspicion(spy(2), data, rng=generator(0))[30:].tolist() == [0] * 6
    assert deep_knn(spy(2), data, rng=generator(0))[30:].all()


def test_a_single_row_stays() -> None:
    assert deep_knn(spy(), Samples(torch.zeros(1, 2), torch.zeros(1).long(), 3), rng=generator(0)).all()
