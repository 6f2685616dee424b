"""Spectral signatures: the singular vector, what is dropped, and which class is suspicious."""

import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.target import Classifier
from casemate.defences.screening.spectral import signature, spectral, standing_out
from casemate.ops.rng import generator


def spy(classes: int = 6, features: int = 4) -> Classifier:
    """A net whose features are its inputs."""
    return Classifier(nn.Sequential(nn.Identity(), nn.Linear(features, classes)), classes, (features,))


def planted(per_class: int = 100, poison: int = 20, classes: int = 6) -> tuple[Samples, Tensor]:
    """Classes of normal features with sd 0.05; the last rows of class 2 are shifted by 0.6 along one axis."""
    y = torch.arange(classes).repeat_interleave(per_class)
    x = 0.3 + 0.05 * torch.randn(len(y), 4, generator=generator(1))
    marked = torch.zeros(len(y), dtype=torch.bool)
    marked[3 * per_class - poison : 3 * per_class] = True
    x[marked, 1] += 0.6
    return Samples(x.clamp(0, 1), y, classes), marked


def test_the_signature_is_the_squared_projection_on_the_first_principal_axis() -> None:
    """The first eigenvector of the scatter matrix, by power iteration."""
    features = torch.randn(30, 5, generator=generator(0)) * torch.tensor([1.0, 4.0, 2.0, 1.0, 0.5])
    centred = (features - features.mean(0)).double()
    scatter, axis = centred.T @ centred, torch.ones(5, dtype=torch.float64)
    for _ in range(500):
        axis = scatter @ axis
        axis /= axis.norm()
    torch.testing.assert_close(signature(features), (centred @ axis).square())


def test_the_planted_rows_go_and_other_classes_stay_whole() -> None:
    """A fifth of class 2 is planted; 1.5 * 0.2 * 100 = 30 of its rows are dropped, the planted first."""
    data, marked = planted()
    keep = spectral(spy(), data, share=0.2, rng=generator(0))
    assert not keep[marked].any()
    assert int((~keep).sum()) == 30
    assert keep[data.y != 2].all()


def test_without_a_suspicious_class_nothing_is_dropped() -> None:
    data, _ = planted(poison=0)
    assert spectral(spy(), data, rng=generator(0)).all()


def test_outlier_zero_is_the_rule_of_the_paper() -> None:
    """Every class loses 1.5 * share of its rows: int(1.5 * 0.1 * 100) = 15."""
    data, marked = planted(poison=10)
    keep = spectral(spy(), data, share=0.1, outlier=0.0, rng=generator(0))
    assert [int((~keep)[data.y == c].sum()) for c in range(6)] == [15] * 6
    assert not keep[marked].any()


def test_among_few_classes_all_are_suspicious() -> None:
    data, marked = planted(classes=3)
    keep = spectral(spy(3), data, share=0.2, rng=generator(0))
    assert int((~keep).sum()) == 90
    assert not keep[marked].any()


def test_a_class_is_never_asked_for_more_rows_than_it_has() -> None:
    data, _ = planted(classes=3)
    assert not spectral(spy(3), data, share=0.9, rng=generator(0)).any()


def test_standing_out_is_counted_in_robust_deviations() -> None:
    """Median 3, median absolute deviation 1: 4 deviations are 3 + 4 * 1.4826 = 8.93."""
    assert standing_out(torch.tensor([1.0, 2, 3, 4, 8.9]), 4.0).tolist() == [False] * 5
    assert standing_out(torch.tensor([1.0, 2, 3, 4, 9.0]), 4.0).tolist() == [False] * 4 + [True]


def test_ticks_follow_the_classes() -> None:
    told = []
    data, _ = planted()
    spectral(spy(), data, share=0.2, rng=generator(0), tick=lambda *given: told.append(given))
    assert [(step, total) for step, total, _ in told] == [(k, 6) for k in range(1, 7)]
    assert told[-1][2] == {"dropped": 30}
