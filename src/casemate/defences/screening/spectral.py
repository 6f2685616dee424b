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

TRAN = Paper(
    "Spectral signatures in backdoor attacks",
    "Tran, Li, Madry",
    2018,
    "https://arxiv.org/abs/1811.00636",
)
MARGIN = 1.5  # rows dropped for each row that may be poisoned, as in the paper


@screening(papers=(TRAN,), known_as=("spectral signatures",))
def spectral(
    model: Classifier,
    data: Samples,
    /,
    *,
    share: Annotated[float, Gt(0), Lt(1)] = 0.25,
    outlier: Annotated[float, Ge(0)] = 4.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop the rows of a class that lie furthest along the main direction of its features.

    Rows that a backdoor has moved into a class differ from its own rows in a common way, and that
    difference dominates the features of the last layer. Of a suspicious class, the paper's share of
    rows with the largest squared projections is dropped.

    The paper drops rows of every class, so a clean data set loses them as well. Here a class is
    suspicious only if the variance along its main direction stands out from those of the other
    classes; `outlier` = 0 brings the paper's rule back. With fewer than five classes nothing can stand
    out, and all are suspicious. A class of which half or more is poison is not found out, as the
    paper says.

    Args:
        model: classifier trained on `data`.
        data: training set that may be poisoned.
        share: largest share of a class that may be poison, in (0, 1); 1.5 times as much is dropped.
        outlier: least distance of a suspicious class from the median class, in robust standard
            deviations (1.4826 times the median absolute deviation); 0 makes all classes suspicious.
        rng: not used; nothing is random.
        tick: called after each class with the number of rows dropped so far.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: the net does not end in a linear layer.
    """
    features = penultimate(model, data.x)
    members = [
        rows for rows in ((data.y == c).nonzero().flatten() for c in range(data.classes)) if len(rows) > 1
    ]
    scores = [signature(features[rows]) for rows in members]
    far = standing_out(torch.tensor([float(s.mean()) for s in scores]), outlier)
    keep = torch.ones(len(data), dtype=torch.bool, device=data.y.device)
    for step, (rows, score) in enumerate(zip(members, scores, strict=True)):
        if far[step]:
            drop = min(len(rows), int(MARGIN * share * len(rows)))
            keep[rows[score.argsort(descending=True, stable=True)[:drop]]] = False
        tick(step + 1, len(members), {"dropped": int((~keep).sum())})
    return keep


def signature(features: Tensor) -> Tensor:
    """Squared projection of each centred feature vector (N, D) on the main direction, (N,)."""
    centred = (features - features.mean(0)).double()
    main: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return (centred @ main).square()


def standing_out(values: Tensor, outlier: float) -> Tensor:
    """Tell which values (K,) lie `outlier` robust standard deviations above their median, (K,) bool."""
    if outlier == 0 or len(values) < 5:
        return torch.ones(len(values), dtype=torch.bool)
    above = values - values.median()
    far: Tensor = above > outlier * 1.4826 * above.abs().median()
    return far
