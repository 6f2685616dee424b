"""What a scanning says of a model, class by class."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SHORT = 0.1  # of the success that was wanted may be missing on all rows
SCALE = 1.4826  # standard deviation of a normal distribution in units of its median absolute deviation


@dataclass(frozen=True)
class Traces:
    """Signs of a backdoor towards each of K classes.

    `evidence` (K,) is higher for more suspicious classes and 0 for a usual one; it is what classes are
    compared by. `flagged` (K,) are the classes that the method itself calls backdoored. `size` (K,) and
    `success` (K,) belong to the recovered triggers: how large they are, in the method's unit, and the
    share of clean rows of other classes that they steer. `triggers` map inputs (N, *S) to marked ones.
    `passes` counts forward and backward passes of one row.
    """

    evidence: Tensor
    flagged: Tensor
    size: Tensor
    success: Tensor
    triggers: tuple[Callable[[Tensor], Tensor], ...]
    unit: str
    passes: int

    @property
    def suspect(self) -> int | None:
        """The most suspicious of the flagged classes; None where none is flagged."""
        if not bool(self.flagged.any()):
            return None
        return int(torch.where(self.flagged, self.evidence, -torch.inf).argmax())


def comparable(size: Tensor, success: Tensor, wanted: float) -> tuple[Tensor, Tensor]:
    """Give sizes (K,) that can be compared, and tell which triggers work, (K,) bool.

    A trigger that works on far fewer rows than wanted says nothing of how small one that works can be;
    it counts as large as the largest.
    """
    works = success >= wanted - SHORT
    return torch.where(works, size, size.max()), works


def smaller(size: Tensor) -> Tensor:
    """Tell how much smaller than the median each size (K,) is, as a logarithm: 0.7 is half of it."""
    logs = size.clamp(min=torch.finfo(size.dtype).tiny).log()
    return torch.quantile(logs, 0.5) - logs


def judged(size: Tensor, success: Tensor, wanted: float, index: float) -> tuple[Tensor, Tensor]:
    """Give the evidence of each class (K,), and tell which lie `index` deviations below the median, (K,) bool."""
    sizes, works = comparable(size, success, wanted)
    evidence = smaller(sizes)
    return torch.where(works, evidence, evidence.clamp(max=0)), works & (anomaly(sizes) > index)


def anomaly(size: Tensor) -> Tensor:
    """Anomaly index of Wang et al. for sizes (K,): deviations below the median; larger sizes have less than 0.

    Where more than half of the sizes are equal, nothing is known of their spread and the index is 0.
    """
    below = torch.quantile(size, 0.5) - size
    spread = SCALE * torch.quantile(below.abs(), 0.5)
    return torch.where(spread > 0, below / spread, 0.0)
