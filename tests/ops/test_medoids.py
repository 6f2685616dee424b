"""Medoids: against all choices, and the sizes of their clusters."""

import torch
from torch import Tensor

from casemate.ops.medoids import medoids, sizes
from casemate.ops.rng import generator


def total(points: Tensor, chosen: list[int]) -> float:
    return float(torch.cdist(points, points[chosen]).amin(1).sum())


def test_each_medoid_is_the_best_one_to_add() -> None:
    """Brute force over all rows in each step: no other row would lower the sum of distances more."""
    points = torch.randn(40, 3, generator=generator(0))
    chosen = medoids(points, 12).tolist()
    for step in range(12):
        best = min(total(points, [*chosen[:step], i]) for i in range(40))
        assert total(points, chosen[: step + 1]) <= best + 1e-4


def test_clusters_count_their_points() -> None:
    """On a line: 0, 1, 2 and 10, 11 and 50; greedily 2, which is nearest to all (as 10 is), then 50 and 10 or 11."""
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [50.0]])
    chosen = medoids(points, 3)
    found = dict(zip(points[chosen].flatten().tolist(), sizes(points, chosen).tolist(), strict=True))
    assert found[2.0] == 3
    assert found[50.0] == 1
    assert sum(found.values()) == 6


def test_points_at_one_place_do_not_fail() -> None:
    chosen = medoids(torch.zeros(5, 2), 3)
    assert len(set(chosen.tolist())) == 3
    assert int(sizes(torch.zeros(5, 2), chosen).sum()) == 5
