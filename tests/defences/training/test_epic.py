"""EPIC: gradients, isolated medoids, and rows that are dropped in the course of a training."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.defences.training.epic import Dropping, connected, epic, gradients, isolated
from casemate.ops.rng import generator


def test_gradients_are_those_of_the_loss_by_the_last_layer() -> None:
    """Row by row, by automatic differentiation; weights first, then the bias, class by class."""
    torch_state = torch.random.get_rng_state()
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4))
    torch.random.set_rng_state(torch_state)
    x, y = torch.rand(5, 3, generator=generator(0)), torch.tensor([0, 1, 2, 3, 0])
    found = gradients(Classifier(net, 4, (3,)), Samples(x, y, 4)).view(5, 4, 6)
    for i in range(5):
        loss = nn.functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        by_weight, by_bias = torch.autograd.grad(loss, [net[2].weight, net[2].bias])
        torch.testing.assert_close(found[i], torch.cat([by_weight, by_bias[:, None]], 1))


def test_a_medoid_that_stands_for_itself_alone_is_isolated() -> None:
    """Two tight groups of ten and one point far away, with three medoids; one tight group, whose medoid stands for all."""
    rng = generator(0)
    groups = [c + 0.01 * torch.randn(10, 2, generator=rng) for c in (0.0, 1.0, 0.5)]
    points = torch.cat([groups[0], groups[1], torch.tensor([[5.0, 5.0]])])
    assert isolated(points, 3 / 21 + 1e-6).nonzero().flatten().tolist() == [20]
    assert not isolated(groups[2], 3 / 21 + 1e-6).any()


@pytest.mark.parametrize(
    ("settings", "epochs", "expected"),
    [
        ((3, 0.15, 0.45), 20, {3, 6, 9}),
        ((3, 0.15, 0.45), 2, {1}),
        ((1, 0.5, 0.5), 10, {5}),
        ((2, 0.5, 0.99), 20, {10, 19}),
    ],
    ids=["three", "few passes", "once", "late"],
)
def test_rows_are_dropped_at_even_distances_between_two_passes(
    settings: tuple[int, float, float], epochs: int, expected: set[int]
) -> None:
    assert Dropping(0.2, *settings).passes(epochs) == expected


def separable(n: int = 120) -> Samples:
    rng = generator(1)
    y = torch.arange(n) % 3
    return Samples(torch.randn(n, 6, generator=rng) * 0.3 + torch.eye(3, 6)[y] * 2, y, 3)


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


PLAIN = Recipe(build, "small", epochs=20, batch=16, lr=0.02)


def test_rows_that_pull_where_no_other_row_pulls_are_not_learnt() -> None:
    """One row of class 0 and one of class 2 have label 1, and pull far from all others of that label.

    Several such rows of one kind would stand for each other, and stay. Without the defence both are
    learnt by heart.
    """
    data = separable()
    rows, wrong = torch.tensor([0, 2]), torch.tensor([1, 1])
    dirty = Samples(data.x, data.y.index_put((rows,), wrong), 3)
    longer = Recipe(build, "small", epochs=200, batch=16, lr=0.05)
    plain, robust = (how(dirty, rng=generator(0)) for how in (longer, epic(longer)))
    assert (plain.predict(data.x[rows]).argmax(1) == wrong).all()
    assert (robust.predict(data.x).argmax(1) == data.y).float().mean() > 0.97
    assert (robust.predict(data.x[rows]).argmax(1) == data.y[rows]).all()


def test_dropped_rows_stay_out_and_the_count_is_told() -> None:
    counts: list[float] = []

    def note(step: int, total: int, values: Mapping[str, float]) -> None:
        counts.append(values["rows"])
        assert 0 < step <= total

    epic(PLAIN)(separable(), rng=generator(0), tick=note)
    assert len(counts) == 20
    assert counts[:3] == [120] * 3
    assert counts == sorted(counts, reverse=True)
    assert counts[9] == counts[-1] < 120


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_no_class_is_lost(share: float) -> None:
    """Of n rows int(share n) < n are medoids; whatever is none has a medoid, and both stay."""
    y = torch.tensor([0, 1, 1, 2, 2, 2] + [3] * 20)
    data = Samples(torch.rand(len(y), 6, generator=generator(0)), y, 4)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4))
    kept = connected(net, data, torch.arange(len(y)), share)
    assert (y[kept].bincount(minlength=4) >= torch.tensor([1, 2, 2, 2])).all()


def test_recipes_in_stages_or_of_one_pass_and_a_last_time_before_the_first_are_refused() -> None:
    with pytest.raises(UsageError, match="one stage"):
        epic(epic(PLAIN))
    with pytest.raises(UsageError, match="epochs >= 2"):
        epic(replace(PLAIN, epochs=1))
    with pytest.raises(UsageError, match="'last'"):
        epic(PLAIN, first=0.5, last=0.4)
    assert epic(PLAIN).digest() != epic(PLAIN, times=2).digest() != PLAIN.digest()
