"""Activation clustering: axes, clusters and silhouettes against slow ways, and which class is cleaned."""

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.target import Classifier
from casemate.defences.screening.activation_clustering import (
    activation_clustering,
    mean_silhouette,
    reduced,
    two_means,
)
from casemate.ops.rng import generator


def spy(classes: int = 4) -> Classifier:
    """A net whose features are its inputs."""
    return Classifier(nn.Sequential(nn.Identity(), nn.Linear(4, classes)), classes, (4,))


def planted(poison: int = 20) -> tuple[Samples, Tensor]:
    """Four classes of 100 rows with sd 0.05; the last rows of class 2 are shifted by 0.6 along one axis."""
    y = torch.arange(4).repeat_interleave(100)
    x = 0.3 + 0.05 * torch.randn(400, 4, generator=generator(1))
    bad = torch.zeros(400, dtype=torch.bool)
    bad[300 - poison : 300] = True
    x[bad, 1] += 0.6
    return Samples(x.clamp(0, 1), y, 4), bad


def test_the_cluster_that_lies_apart_goes_and_other_classes_stay_whole() -> None:
    data, bad = planted()
    assert torch.equal(activation_clustering(spy(), data, rng=generator(0)), ~bad)


@pytest.mark.parametrize("poison", [0, 48])
def test_clean_classes_and_clusters_of_half_a_class_stay(poison: int) -> None:
    data, _ = planted(poison)
    assert activation_clustering(spy(), data, rng=generator(0)).all()


def test_silhouettes_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    points = torch.randn(50, 3, generator=generator(2)).double()
    second = torch.arange(50) % 5 == 0
    assert mean_silhouette(points, second) == pytest.approx(silhouette_score(points, second))
    assert mean_silhouette(points, torch.zeros(50, dtype=torch.bool)) == -1


def test_clusters_are_a_fixed_point_of_two_means() -> None:
    """Every row is nearest to the mean of its own cluster."""
    points = reduced(torch.randn(80, 6, generator=generator(3)), 4)
    second = two_means(points)
    to_second = (points - points[second].mean(0)).norm(dim=1) < (points - points[~second].mean(0)).norm(dim=1)
    assert torch.equal(second, to_second)


def test_reduced_rows_keep_their_distances_when_no_axis_is_lost() -> None:
    features = torch.randn(9, 3, generator=generator(4)).double()
    torch.testing.assert_close(
        torch.cdist(reduced(features, 3), reduced(features, 3)), torch.cdist(features, features)
    )
