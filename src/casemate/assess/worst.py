"""The worst case per row over several results: an ensemble is a plan, not an attack."""

from collections.abc import Sequence

import torch
from torch import Tensor

from casemate.ops.stats import Estimate, share


def worst_case(standing: Sequence[Tensor]) -> Tensor:
    """Rows (N,) that stand after every attack; adding an attack never adds a row."""
    return torch.stack(list(standing)).all(0)


def robust_accuracy(standing: Sequence[Tensor]) -> Estimate:
    """Share of rows that are classified correctly and stand after every attack."""
    left = worst_case(standing)
    return share(int(left.sum()), len(left))
