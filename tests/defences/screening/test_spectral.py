"""Spectral signatures: the singular vector, what is dropped, and which class is suspicious."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.target import Classifier
from casemate.defences.screening.spectral import projections, spectral, two_groups
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


def test_projections_are_those_on_the_first_principal_axis() -> None:
    """The first eigenvector of the scatter matrix, by power iteration."""
    features = torch.randn(30, 5, generator=generator(0)) * torch.tensor([1.0, 4.0, 2.0, 1.0, 0.5])
    centred = (features - features.mean(0)).double()
    scatter, axis = centred.T @ centred, torch.ones(5, dtype=torch.float64)
    for _ in range(500):
        axis = scatter @ axis
        axis /= axis.norm()
    torch.testing.assert_close(projections(features).square(), (centred @ axis).square())


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


def test_split_zero_is_the_rule_of_the_paper() -> None:
    """Every class loses 1.5 * share of its rows: int(1.5 * 0.1 * 100) = 15."""
    data, marked = planted(poison=10)
    keep = spectral(spy(), data, share=0.1, split=0.0, rng=generator(0))
    assert [int((~keep)[data.y == c].sum()) for c in range(6)] == [15] * 6
    assert not keep[marked].any()


def test_a_class_is_judged_by_itself_however_few_there_are() -> None:
    data, marked = planted(classes=3)
    keep = spectral(spy(3), data, share=0.2, rng=generator(0))
    assert not keep[marked].any()
    assert keep[data.y != 2].all()


def test_a_class_of_two_kinds_of_equal_size_is_not_suspicious() -> None:
    """Half of class 2 lies apart: more than the 1.5 * 0.25 that could be dropped, so it is no poison."""
    data, _ = planted(poison=50)
    assert spectral(spy(), data, rng=generator(0)).all()


def test_a_class_is_never_asked_for_more_rows_than_it_has() -> None:
    data, _ = planted(classes=3)
    assert not spectral(spy(3), data, share=0.9, split=0.0, rng=generator(0)).any()


def test_two_groups_are_those_of_the_best_cut() -> None:
    """Brute force over all cuts: variance between groups over total variance."""
    numbers = torch.tensor([0.0, 5.0, 0.5, 4.0, 0.2, 0.1, 4.5])
    ordered, found = numbers.sort().values, []
    for cut in range(1, 7):
        left, right = ordered[:cut], ordered[cut:]
        between = sum(len(part) * float(part.mean() - numbers.mean()) ** 2 for part in (left, right))
        found.append((between / float((numbers - numbers.mean()).square().sum()), min(cut, 7 - cut)))
    share, smaller = two_groups(numbers.double())
    assert share == pytest.approx(max(found)[0])
    assert smaller == max(found)[1] == 3


def test_a_normal_distribution_cut_in_two_has_two_over_pi_between_its_halves() -> None:
    share, smaller = two_groups(torch.randn(20_000, generator=generator(3)).double())
    assert share == pytest.approx(2 / torch.pi, abs=0.01)
    assert smaller == pytest.approx(10_000, abs=600)


def test_equal_numbers_have_no_groups() -> None:
    assert two_groups(torch.full((5,), 0.3)) == (0.0, 0)
    assert two_groups(torch.tensor([0.3])) == (0.0, 0)


def test_ticks_follow_the_classes() -> None:
    told = []
    data, _ = planted()
    spectral(spy(), data, share=0.2, rng=generator(0), tick=lambda *given: told.append(given))
    assert [(step, total) for step, total, _ in told] == [(k, 6) for k in range(1, 7)]
    assert told[-1][2] == {"dropped": 30}
