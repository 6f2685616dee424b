"""Poisons with a dial: what a detector by distances sees, and whether numbers rise."""

import torch

from casemate.assess.dials import _far, _seen, rises
from casemate.core.data import Poison, Samples


def test_each_value_must_be_above_the_one_before() -> None:
    assert rises([0.1, 0.2, 0.3])
    assert not rises([0.1, 0.3, 0.2])
    assert not rises([0.1, 0.1, 0.3])


def test_a_row_is_as_far_as_its_kth_nearest_known_row_of_its_label() -> None:
    """Known rows of class 0 lie at 0, 1, 2 and those of class 1 at 10, 12, 14. The second nearest of class 0
    to 0.2 is at 1, and that of class 1 to 11 is at 12 or 10, to 0.2 at 12."""
    known = Samples(torch.tensor([[0.0], [1.0], [2.0], [10.0], [12.0], [14.0]]), torch.arange(6) // 3, 2)
    x, y = torch.tensor([[0.2], [11.0], [0.2]]), torch.tensor([0, 1, 1])
    assert torch.allclose(_far(x, y, known, 2), torch.tensor([0.8, 1.0, 11.8]))


def test_poison_farther_than_all_clean_rows_is_seen_for_certain_and_a_copy_of_them_is_not() -> None:
    """Mislabelled rows lie among the other class, so that each is farther from its label's rows than any clean
    one; the AUC is 1. Poison that is the clean test rows themselves scores as they do: 1/2."""
    known = Samples(torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]]), torch.arange(6) // 3, 2)
    test = Samples(torch.tensor([[0.5], [1.5], [10.5], [11.5]]), torch.tensor([0, 0, 1, 1]), 2)
    wrong = Poison(torch.tensor([0, 1]), torch.tensor([[11.0], [12.0]]), torch.tensor([0, 0]))
    copies = Poison(torch.tensor([0, 1, 2, 3]), test.x, test.y)
    assert _seen([wrong], known, test, 2) == 1
    assert _seen([copies], known, test, 2) == 0.5
