"""Progress, loss trace, time limit and cancellation in one callback."""

from collections.abc import Mapping
from typing import Protocol


class Tick(Protocol):
    """Called after each step of long work; it may raise to stop the work."""

    def __call__(self, step: int, total: int, values: Mapping[str, float], /) -> None:
        """Report that `step` of `total` steps are done, with current values by name."""


def ignore(step: int, total: int, values: Mapping[str, float], /) -> None:
    """Do nothing with a tick."""
