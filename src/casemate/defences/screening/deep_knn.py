"""Deep k-NN."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.features import penultimate
from casemate.core.registry import Paper, screening
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

PERI = Paper(
    "Deep k-NN defense against clean-label data poisoning attacks",
    "Peri, Gupta, Huang, Fowl, Zhu, Feizi, Goldstein, Dickerson",
    2020,
    "https://arxiv.org/abs/1909.13374",
)
ROWS = 500  # whose distances are held at a time
LEAST = 3  # neighbours without which a single poison next door is not outvoted


@screening(
    papers=(PERI,),
    known_as=("deep k-NN", "kNN label sanitisation", "deep k-nearest neighbours"),
    against=("poisoning", "targeted"),  # the paper's poisons are targeted ones
    version=2,
)
def deep_knn(
    model: Classifier,
    data: Samples,
    /,
    *,
    k: Annotated[int, Ge(1)] = 50,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop the rows whose label is not the most frequent one among their nearest neighbours' features.

    A row that was moved next to another class in feature space, or that has a wrong label, stands
    among rows of another label. Where poisons are so many that they are each other's neighbours, as
    those of a backdoor are, they outvote the others.

    A row has no more neighbours of its own label than its class has other rows, so that with many more
    voters than those a clean row would be outvoted. At most half as many vote, since the rows of a
    class may look like one of two things (of clean digits, 50 of a class, that raises 15% instead of
    20% with all of them). A class in which three would then be too many cannot be judged, and its rows
    are kept: they are fewer than seven (or than 2 k + 1, if k is below three).

    Args:
        model: classifier whose last layer but one gives the features.
        data: training set that may be poisoned.
        k: neighbours that vote; more than twice as many as poisons of one place. Rows of a class of
            fewer than 2 k + 1 are judged by half as many as it has besides them.
        rng: not used; nothing is random.
        tick: called after every 500 rows with the number dropped so far.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: the net does not end in a linear layer.
    """
    return suspicion(model, data, k=k, rng=rng, tick=tick) <= 1


def suspicion(
    model: Classifier, data: Samples, /, *, k: int = 50, rng: Generator, tick: Tick = ignore
) -> Tensor:
    """Divide the neighbours of the most frequent other label by those of the own, (N,); above 1 is suspicious."""
    features = penultimate(model, data.x)
    votes = torch.zeros(len(data), data.classes, device=data.x.device)
    others = data.y.bincount(minlength=data.classes) - 1
    counts = (others // 2).clamp(0, k)[data.y]
    counts[counts < min(k, LEAST)] = 0
    most = int(counts.max()) if len(counts) else 0
    if most < 1:
        return votes.sum(1)
    labels = F.one_hot(data.y, data.classes).to(votes)
    for rows in torch.arange(len(data), device=data.x.device).split(ROWS):
        distances = torch.cdist(features[rows], features)
        # a row is no neighbour of itself, and its twin is one
        distances[torch.arange(len(rows), device=rows.device), rows] = torch.inf
        near = labels[distances.topk(most, largest=False, sorted=True).indices]
        asked = torch.arange(most, device=rows.device) < counts[rows, None]
        votes[rows] = (near * asked[..., None]).sum(1)
        tick(int(rows[-1]) + 1, len(data), {"dropped": float((_ratio(votes, data.y) > 1).sum())})
    return _ratio(votes, data.y)


def _ratio(votes: Tensor, y: Tensor) -> Tensor:
    """Votes for the label ahead of all others but the own, over those for the own, (N,)."""
    own = votes.gather(1, y[:, None]).squeeze(1)
    others = votes.scatter(1, y[:, None], -1).amax(1).clamp(min=0)
    # no vote for the own label counts as half a one, so that such rows still have an order
    return others / own.clamp(min=0.5)
