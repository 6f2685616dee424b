"""Medoids: points of a set that stand for all others."""

import heapq

import torch
from torch import Tensor


def medoids(points: Tensor, count: int) -> Tensor:
    """Choose medoids one by one, each the one that lowers the sum of distances to the nearest most.

    The lazy form of the greedy algorithm: what a point would gain only falls as others are chosen, so
    most of them need not be asked again. The first is the point nearest to all.

    Args:
        points: (N, D).
        count: number of medoids, at most N.

    Returns:
        Their row numbers (count,), in the order in which they were chosen.
    """
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.amax().expand(len(points)).clone()
    queue = [(-float(gain), i) for i, gain in enumerate((nearest[:, None] - distances).sum(0).tolist())]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < count:
        _, i = heapq.heappop(queue)
        gain = float((nearest - distances[:, i]).clamp(min=0).sum())
        # equal gains go to the first row, whatever order the queue has them in
        if queue and (-gain, i) > queue[0]:
            heapq.heappush(queue, (-gain, i))
            continue
        chosen.append(i)
        nearest = torch.minimum(nearest, distances[:, i])
    return torch.tensor(chosen, dtype=torch.int64, device=points.device)


def sizes(points: Tensor, chosen: Tensor) -> Tensor:
    """Count the points (N, D) that lie nearest to each chosen one, itself among them, (M,)."""
    distances = torch.cdist(points, points[chosen], compute_mode="donot_use_mm_for_euclid_dist")
    # a medoid is its own, also where another one lies at the same place
    distances[chosen, torch.arange(len(chosen), device=chosen.device)] = -1.0
    return distances.argmin(1).bincount(minlength=len(chosen))
