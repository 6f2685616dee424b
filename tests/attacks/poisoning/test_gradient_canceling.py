"""Gradient canceling: at the weights chosen, what clean rows pull the poison pulls back."""

from functools import partial

import pytest
import torch
from torch import nn

from casemate.attacks.poisoning import gradient_canceling as module
from casemate.attacks.poisoning.gradient_canceling import (
    _cancelling,
    _corrupted,
    _starts,
    _wrong,
    gradient_canceling,
)
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.learner import descend, product, slope, untrained
from casemate.core.recipe import Recipe
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator
from casemate.scenes.poisoning import linear


def blobs(n: int = 60, seed: int = 0) -> Samples:
    """Two overlapping clouds of four values each."""
    y = torch.arange(n) % 2
    x = 0.2 * torch.randn(n, 4, generator=generator(seed)) + 0.4 + 0.2 * y[:, None]
    return Samples(x.clamp(0, 1), y, 2)


RECIPE = Recipe(partial(linear, 4, 2), "softmax 4")
SHOP = Workshop(blobs(), RECIPE, lambda n: [], blobs(seed=1))


def test_bad_weights_are_in_their_ball_and_worse():
    x, y = SHOP.clean.x.double(), SHOP.clean.y
    of = untrained(RECIPE, x, generator(0))
    good = descend(of, of.start(), x, y, 0.5, 50)
    bad = _corrupted(of, good, SHOP.held_out, 0.3, 20)
    away = [a - b for a, b in zip(bad, good, strict=True)]
    assert float(product(away, away)) ** 0.5 <= 0.3 * float(product(good, good)) ** 0.5 * (1 + 1e-9)
    valid = SHOP.held_out.x.double(), SHOP.held_out.y
    assert float(of.loss(bad, *valid)) > float(of.loss(good, *valid)) + 0.01


def test_where_the_poison_cancels_the_gradient_training_stays():
    """Twenty poisons against forty rows are enough here: a step of descent from w* then leads nowhere, and
    the size of the gradient that the attack reports is the one of the joint training set."""
    rest = Samples(SHOP.clean.x[:40].double(), SHOP.clean.y[:40], 2)
    of = untrained(RECIPE, rest.x, generator(0))
    bad = _corrupted(of, descend(of, of.start(), rest.x, rest.y, 0.5, 50), SHOP.held_out, 0.1, 20)
    start, labels = SHOP.clean.x[40:].double(), 1 - SHOP.clean.y[40:]
    x, left = _cancelling(of, bad, rest, start, labels, 500, 0.02)
    both = torch.cat([rest.x, x]), torch.cat([rest.y, labels])
    found = slope(of, bad, *both)
    torch.testing.assert_close(left, float(product(found, found)) ** 0.5)
    before = slope(of, bad, rest.x, rest.y)
    assert left < 0.02 * float(product(before, before)) ** 0.5
    assert x.min() >= 0
    assert x.max() <= 1


def test_the_starts_are_those_of_a_search_through_all_pairs():
    """The first start is the row, and the second the row beside it, that leave the least gradient of the joint set:
    computed here by training sets that have each candidate in turn."""
    rest = Samples(SHOP.clean.x[:20].double(), SHOP.clean.y[:20], 2)
    of = untrained(RECIPE, rest.x, generator(0))
    bad = _corrupted(of, descend(of, of.start(), rest.x, rest.y, 0.5, 50), SHOP.held_out, 0.1, 20)
    drawn = Samples(rest.x, 1 - rest.y, 2)
    x, y = _starts(of, bad, rest, drawn, 2)
    weight = torch.tensor([20 / 22, 1 / 22, 1 / 22], dtype=torch.float64)

    def left(*picked: int) -> float:
        parts = [slope(of, bad, rest.x, rest.y)]
        parts += [slope(of, bad, drawn.x[[i]], drawn.y[[i]]) for i in picked]
        total = [
            sum(float(w) * g for w, g in zip(weight, found, strict=False))
            for found in zip(*parts, strict=True)
        ]
        return float(product(total, total))

    first = min(range(20), key=left)
    second = min(range(20), key=lambda i: left(first, i))
    assert torch.equal(x, drawn.x[[first, second]])
    assert torch.equal(y, drawn.y[[first, second]])


@pytest.mark.parametrize("picks", [500, 6])
def test_no_start_is_taken_twice_before_all_are(picks, monkeypatch):
    """Equal poisons would stay equal. Also where several are picked at a time, 20 in groups of 4 and 27 of 5."""
    monkeypatch.setattr(module, "PICKS", picks)
    rest = Samples(SHOP.clean.x[:20].double(), SHOP.clean.y[:20], 2)
    of = untrained(RECIPE, rest.x, generator(0))
    drawn = Samples(rest.x, 1 - rest.y, 2)
    for count in (20, 27):
        x, y = _starts(of, of.start(), rest, drawn, count)
        rows = (x[:, None] == rest.x).all(2).int().argmax(1)
        assert rows[:20].unique().numel() == 20
        assert rows[20:].unique().numel() == count - 20
        assert torch.equal(y, drawn.y[rows])


def test_starts_have_wrong_labels_and_each_wrong_label_once():
    """Seven rows of four classes have 21 pairs; fewer are drawn of as many rows as there are."""
    rest = Samples(torch.arange(7.0)[:, None] / 7, torch.arange(7) % 4, 4)

    def pairs(count: int) -> list[tuple[int, int]]:
        drawn = _wrong(rest, count, generator(0))
        return list(zip((drawn.x[:, 0] * 7).round().long().tolist(), drawn.y.tolist(), strict=True))

    every = {(row, label) for row in range(7) for label in range(4) if label != row % 4}
    assert sorted(pairs(30)) == sorted(every)
    assert len(set(pairs(10))) == 10
    assert {row for row, _ in pairs(7)} == set(range(7))
    assert set(pairs(10)) < every


def deep() -> nn.Module:
    """A net of two layers, whose gradients grow with its weights."""
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def test_training_that_diverges_is_an_error():
    shop = Workshop(SHOP.clean, Recipe(deep, "two layers"), lambda n: [], SHOP.held_out)
    few = {"radii": (0.1, 0.2), "corruption_steps": 2, "pool": 10, "steps": 2, "inner_steps": 20}
    with pytest.raises(UsageError, match=r"rate: .* diverged; expected a lower one, got 1e\+100"):
        gradient_canceling(shop, PoisonBudget(0.1), rng=generator(0), rate=1e100, **few)


def test_the_budget_is_kept_and_one_class_is_refused():
    made = gradient_canceling(SHOP, PoisonBudget(0.2), rng=generator(0), steps=5, inner_steps=20)
    assert len(made.rows) == len(made.y) == 12
    assert made.rows.unique().numel() == 12
    alone = Workshop(Samples(torch.rand(9, 4), torch.zeros(9, dtype=torch.int64), 1), RECIPE, lambda n: [])
    with pytest.raises(NotApplicable, match="two or more classes"):
        gradient_canceling(alone, PoisonBudget(0.2), rng=generator(0))
