"""Leaving rows out of a batch."""

from typing import Any, TypeVarTuple, cast

from torch import Tensor

Parts = TypeVarTuple("Parts")


def keep(stand: Tensor, *parts: *Parts) -> tuple[*Parts]:
    """Restrict tensors, oracles, goals and generators to the rows marked in `stand` (N,) bool.

    Where all rows stand, the parts come back as they are, without a copy.
    """
    if bool(stand.all()):
        return parts
    rows = stand.nonzero().flatten()
    return cast("tuple[*Parts]", tuple(part[rows] for part in cast("tuple[Any, ...]", parts)))
