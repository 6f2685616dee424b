"""One class for many rows."""

import torch

from casemate.ops.labels import flooding
from casemate.ops.rng import generator

Y = torch.tensor([0] * 18 + [1] * 2)


def drawn(count: int, classes: int = 3) -> set[int]:
    return {flooding(Y, classes, count, generator(seed)) for seed in range(60)}


def test_only_classes_that_enough_rows_are_not_of_are_drawn() -> None:
    """Two rows are not of class 0, 18 not of class 1 and 20 not of class 2, which none is of."""
    assert drawn(2) == {0, 1, 2}
    assert drawn(3) == {1, 2}
    assert drawn(19) == {2}


def test_where_no_class_leaves_enough_the_one_that_leaves_most_is_drawn() -> None:
    assert drawn(20, classes=2) == {1}
