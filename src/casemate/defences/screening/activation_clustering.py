"""Activation clustering."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Samples
from casemate.core.features import penultimate
from casemate.core.registry import Paper, screening
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

CHEN = Paper(
    "Detecting backdoor attacks on deep neural networks by activation clustering",
    "Chen, Carvalho, Baracaldo, Ludwig, Edwards, Lee, Molloy, Srivastava",
    2018,
    "https://arxiv.org/abs/1811.03728",
)
ROUNDS = 100  # of 2-means, which settles in far fewer
MOST = 1000  # rows of a class that the silhouette is taken over


@screening(papers=(CHEN,), known_as=("activation clustering",), against=("backdoor",))
def activation_clustering(
    model: Classifier,
    data: Samples,
    /,
    *,
    dims: Annotated[int, Ge(1)] = 10,
    share: Annotated[float, Gt(0), Le(0.5)] = 0.45,
    silhouette: Annotated[float, Gt(0), Le(1)] = 0.45,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Cut the features of each class into two clusters, and drop the smaller one where they lie apart.

    Poisoned rows of a class are read by other features than its clean ones, so that the class falls
    into two. A class is cleaned only if the clusters are far apart, measured by their silhouette, and
    one of them is small enough to be poison; the paper compares these two signs as well. Poison that
    is half of a class, or whose features mix with those of clean rows, is not found.

    Deviations: the paper finds the axes by independent component analysis, which scales every axis to
    the same width and so hides which of them is long; here they are the principal ones. The paper's
    bound on the silhouette, 0.1 to 0.15, is that of large nets; classes of clothing reach 0.39 when
    clean.

    Args:
        model: classifier trained on `data`.
        data: training set that may be poisoned.
        dims: main axes that the features of a class are reduced to before they are clustered.
        share: largest share of a class that may be poison, in (0, 0.5].
        silhouette: least mean silhouette, in (0, 1], at which two clusters count as apart.
        rng: source of the rows that the silhouette of a large class is taken over.
        tick: called after each class with the number of rows dropped so far.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: the net does not end in a linear layer.
    """
    return suspicion(model, data, dims=dims, share=share, silhouette=silhouette, rng=rng, tick=tick) <= 1


def suspicion(
    model: Classifier,
    data: Samples,
    /,
    *,
    dims: int = 10,
    share: float = 0.45,
    silhouette: float = 0.45,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Divide the silhouette of the two clusters by its bound, (N,), for rows of a small one; 0 for the others."""
    features = penultimate(model, data.x)
    scores = torch.zeros(len(data), device=data.x.device)
    for label in range(data.classes):
        rows = (data.y == label).nonzero().flatten()
        if len(rows) > 2:
            points = reduced(features[rows], dims)
            second = two_means(points)
            small = second if int(second.sum()) <= len(rows) / 2 else ~second
            some = torch.randperm(len(rows), generator=rng)[:MOST].to(rows.device)
            apart = mean_silhouette(points[some], second[some])
            if 0 < int(small.sum()) <= share * len(rows):
                scores[rows[small]] = max(0.0, apart) / silhouette
        tick(label + 1, data.classes, {"dropped": float((scores > 1).sum())})
    return scores


def reduced(features: Tensor, dims: int) -> Tensor:
    """Coordinates of features (N, D) on their main axes, (N, min(dims, N, D)) float64."""
    centred = (features - features.mean(0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    places: Tensor = (u * s)[:, :dims]
    return places


def two_means(points: Tensor) -> Tensor:
    """Cut points (N, D), the first axis the main one, into two clusters: (N,) bool for the second."""
    # the start is the cut across the main axis, which random starts seldom beat and which needs no luck
    second = points[:, 0] > 0
    for _ in range(ROUNDS):
        if not bool(second.any()) or bool(second.all()):
            return second
        centres = torch.stack([points[~second].mean(0), points[second].mean(0)])
        again = torch.cdist(points, centres).argmin(1) == 1
        if torch.equal(again, second):
            break
        second = again
    return second


def mean_silhouette(points: Tensor, second: Tensor) -> float:
    """Mean silhouette of two clusters of points (N, D), in [-1, 1]; -1 where one of them is empty."""
    sizes = torch.stack([(~second).sum(), second.sum()]).double()
    if int(sizes.min()) == 0:
        return -1.0
    distances = torch.cdist(points, points)
    sums = torch.stack([distances[:, ~second].sum(1), distances[:, second].sum(1)], 1)
    own = second.long()[:, None]
    inside = sums.gather(1, own).squeeze(1) / (sizes[own.squeeze(1)] - 1).clamp(min=1)
    outside = sums.gather(1, 1 - own).squeeze(1) / sizes[1 - own.squeeze(1)]
    widest = torch.maximum(inside, outside)
    # a cluster of one row has silhouette 0, as have rows that all lie in one place
    values = torch.where((widest > 0) & (sizes[own.squeeze(1)] > 1), (outside - inside) / widest, 0.0)
    return float(values.mean())
