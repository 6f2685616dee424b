"""Spectral signatures."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor

from casemate.core.data import Samples
from casemate.core.features import penultimate
from casemate.core.registry import Paper, screening
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.ops.groups import best_cut

TRAN = Paper(
    "Spectral signatures in backdoor attacks",
    "Tran, Li, Madry",
    2018,
    "https://arxiv.org/abs/1811.00636",
)
MARGIN = 1.5  # rows dropped for each row that may be poisoned, as in the paper


@screening(papers=(TRAN,), known_as=("spectral signatures",), against=("backdoor",))
def spectral(
    model: Classifier,
    data: Samples,
    /,
    *,
    share: Annotated[float, Gt(0), Lt(1)] = 0.25,
    split: Annotated[float, Ge(0), Lt(1)] = 0.78,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop the rows of a class that lie furthest along the main direction of its features.

    Rows that a backdoor has moved into a class differ from its own rows in a common way, and that
    difference dominates the features of the last layer. Of a suspicious class, the paper's share of
    rows with the largest squared projections on the main direction is dropped.

    The paper drops rows of every class, so clean data lose them as well. Here a class is suspicious
    only if its projections fall into two groups, of which the smaller one could be dropped whole;
    `split` = 0 brings the paper's rule back. Either way, a class of which half or more is poison is
    not cleaned, and little poison may leave no signature.

    Args:
        model: classifier trained on `data`.
        data: training set that may be poisoned.
        share: largest share of a class that may be poison, in (0, 1); 1.5 times as much is dropped.
        split: least share of the projections' variance that lies between the two groups of a
            suspicious class, in [0, 1). A normal distribution cut in two has 0.64 between its halves,
            a uniform one 0.75; at 0 all classes are suspicious.
        rng: not used; nothing is random.
        tick: called after each class with the number of rows dropped so far.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: the net does not end in a linear layer.
    """
    features = penultimate(model, data.x)
    keep = torch.ones(len(data), dtype=torch.bool, device=data.y.device)
    for label in range(data.classes):
        rows = (data.y == label).nonzero().flatten()
        drop = min(len(rows), int(MARGIN * share * len(rows)))
        if drop:
            places = projections(features[rows])
            between, smaller = two_groups(places)
            if split == 0 or (between >= split and smaller <= drop):
                keep[rows[places.square().argsort(descending=True, stable=True)[:drop]]] = False
        tick(label + 1, data.classes, {"dropped": int((~keep).sum())})
    return keep


def projections(features: Tensor) -> Tensor:
    """Project centred feature vectors (N, D) on their first principal axis, (N,)."""
    centred = (features - features.mean(0)).double()
    main: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return centred @ main


def two_groups(places: Tensor) -> tuple[float, int]:
    """Cut numbers (N,) in two where most of their variance lies between the groups (2-means).

    Gives the share of the variance between the groups, in [0, 1], and the size of the smaller one.
    """
    between, below = best_cut(places)
    return between, min(below, len(places) - below) if below else 0
