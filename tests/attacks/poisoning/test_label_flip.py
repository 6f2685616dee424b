"""Label flips: random rows, random wrong labels."""

import pytest
import torch

from casemate.attacks.poisoning.label_flip import label_flip
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.ops.rng import generator


def data(n: int = 900, classes: int = 4) -> Samples:
    return Samples(torch.rand(n, 3, generator=generator(0)), torch.arange(n) % classes, classes)


def test_every_flipped_label_is_wrong_and_inputs_stay() -> None:
    clean = data()
    poison = label_flip(clean, PoisonBudget(0.5), rng=generator(1))
    assert len(poison.rows) == len(poison.rows.unique()) == 450
    assert (poison.y != clean.y[poison.rows]).all()
    assert torch.equal(poison.x, clean.x[poison.rows])


def test_rows_and_wrong_classes_are_chosen_evenly() -> None:
    """Of 900 flips, each of the 12 pairs (from, to) has the mean 75 and a variance below 75: 5 sd = 43."""
    clean = data()
    poison = label_flip(clean, PoisonBudget(1.0), rng=generator(2))
    pairs = (clean.y[poison.rows] * 4 + poison.y).bincount(minlength=16).view(4, 4)
    assert pairs.diagonal().eq(0).all()
    assert (pairs[~torch.eye(4, dtype=torch.bool)] - 75).abs().max() < 43
    half = label_flip(clean, PoisonBudget(0.5), rng=generator(3)).rows
    # hypergeometric: 225 of the first 450 rows, sd 10.6
    assert abs(int((half < 450).sum()) - 225) < 5 * 10.6


def test_with_two_classes_a_flip_is_the_other_class() -> None:
    clean = data(100, 2)
    poison = label_flip(clean, PoisonBudget(0.3), rng=generator(4))
    assert torch.equal(poison.y, 1 - clean.y[poison.rows])


def test_one_class_floods_the_others() -> None:
    """All rows get one class that none of them had, drawn evenly; by default each gets its own, as ever."""
    clean = data()
    seen = []
    for seed in range(60):
        poison = label_flip(clean, PoisonBudget(0.5), labels="one for all", rng=generator(seed))
        assert len(poison.rows) == len(poison.rows.unique()) == 450
        assert poison.y.unique().numel() == 1
        assert (poison.y != clean.y[poison.rows]).all()
        seen.append(int(poison.y[0]))
    # binomial, 60 of 1/4: mean 15, sd 3.4
    assert all(0 < seen.count(k) < 33 for k in range(4))
    every = label_flip(clean, PoisonBudget(1.0), labels="one for all", rng=generator(0))
    assert len(every.rows) == 675


def test_one_class_has_has_no_wrong_label() -> None:
    clean = Samples(torch.rand(5, 3), torch.zeros(5, dtype=torch.int64), 1)
    with pytest.raises(NotApplicable, match="two or more classes"):
        label_flip(clean, PoisonBudget(0.5), rng=generator(0))
