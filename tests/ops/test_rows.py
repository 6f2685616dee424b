"""Leaving rows out of a batch."""

import torch

from casemate.core.threat import Misclassify
from casemate.ops.rng import rows
from casemate.ops.rows import keep


def test_all_parts_keep_the_same_rows():
    x, y = torch.arange(8.0).view(4, 2), torch.tensor([3, 1, 2, 0])
    kept_x, goal, streams = keep(torch.tensor([True, False, False, True]), x, Misclassify(y), rows(0, 4))
    assert kept_x.tolist() == [[0, 1], [6, 7]]
    assert goal.y.tolist() == [3, 0]
    assert torch.equal(streams.uniform(1), rows(0, [0, 3]).uniform(1))


def test_nothing_is_copied_while_all_rows_stand():
    x = torch.zeros(3, 2)
    (kept,) = keep(torch.ones(3, dtype=torch.bool), x)
    assert kept is x


def test_no_rows_may_be_left():
    (kept,) = keep(torch.zeros(3, dtype=torch.bool), torch.zeros(3, 2))
    assert kept.shape == (0, 2)
