"""Which training rows a poisoner dresses up."""

import torch
from torch import Tensor

from casemate.core.data import Samples
from casemate.core.workshop import Aims


def nearest(clean: Samples, features: Tensor, aims: Aims, probes: Tensor, count: int, /) -> list[Tensor]:
    """Choose, for each aim, the rows of the class wished for whose features are nearest to the aim's.

    Args:
        clean: training rows.
        features: their features (N, D).
        aims: T aims.
        probes: the aims' features (T, D).
        count: most rows for each aim; fewer where the class has fewer.

    Returns:
        Rows (M,) for each of the T aims, the nearest first.
    """
    distances = torch.cdist(probes.double(), features.double())
    distances = distances.masked_fill(clean.y != aims.wish[:, None], torch.inf)
    order = distances.argsort(dim=1, stable=True)
    have = torch.bincount(clean.y, minlength=clean.classes)[aims.wish].clamp(max=count)
    return [row[:m] for row, m in zip(order, have.tolist(), strict=True)]


def shared_count(clean: Samples, aims: Aims, count: int, /) -> int:
    """Number of rows, `count` at most, that every aim can have: no more than its class has."""
    if not len(aims):
        return 0
    return min(count, int(torch.bincount(clean.y, minlength=clean.classes)[aims.wish].min()))


def squares(features: Tensor, /) -> Tensor:
    """Squared sizes of features (T, D) to divide by, (T,); 1 where there are none."""
    size = features.square().sum(1)
    return size.where(size > 0, torch.ones_like(size))


def spread(rows: list[Tensor], /) -> tuple[Tensor, Tensor]:
    """Lay rows of several aims end to end: the rows (M,) and the aim (M,) that each serves."""
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(r) for r in rows], dtype=torch.int64))
    flat = torch.cat(rows) if rows else owner
    return flat, owner.to(flat.device)
