"""Deep partition aggregation: votes, radii, and the certificate against every change that it covers."""

from functools import partial
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.defences.training.dpa import Council, certificate, certify, divide, dpa
from casemate.ops.rng import generator

PARTS = 5


def linear() -> nn.Module:
    return nn.Linear(2, 2)


def recipe() -> Recipe:
    return Recipe(linear, "line", epochs=1, batch=32, lr=0.5)


def plane(n: int = 30) -> Samples:
    """Two classes in the unit square, apart in the first coordinate."""
    rng = generator(0)
    y = torch.arange(n) % 2
    x = torch.rand(n, 2, generator=rng)
    x[:, 0] = 0.5 * x[:, 0] + 0.5 * y
    return Samples(x, y, 2)


def train(data: Samples, parts: int = PARTS) -> Classifier:
    return dpa(recipe(), parts=parts, longer=8)(data, rng=generator(1))


def grid() -> Tensor:
    steps = torch.linspace(0, 1, 9)
    return torch.cartesian_prod(steps, steps)


def test_radius_is_the_largest_number_of_votes_that_cannot_change_the_answer() -> None:
    """By trying: r votes are taken from the first class and given to another one, for every r and class.

    Ties go to the class with the smaller number, as the certificate assumes.
    """
    votes = torch.tensor([v for v in torch.cartesian_prod(*[torch.arange(7)] * 3).tolist() if sum(v) == 6])
    found = certificate(votes)
    for row, label, radius in zip(votes.tolist(), found.label.tolist(), found.radius.tolist(), strict=True):

        def stands(r: int, row: list[int] = row, label: int = label) -> bool:
            changed = []
            for other in range(3):
                worst = list(row)
                worst[label] -= r
                worst[other] += r
                changed.append(worst.index(max(worst)))
            return all(c == label for c in changed if r <= row[label])

        assert stands(radius)
        assert radius + 1 > row[label] or not stands(radius + 1)


def test_scores_are_shares_of_the_votes_with_a_slope() -> None:
    council = Council([linear() for _ in range(4)])
    x = torch.rand(6, 2, generator=generator(0), requires_grad=True)
    shares = council(x)
    counted = torch.stack([m(x).argmax(1) for m in council.members])
    assert torch.equal(shares[:, 1], (counted == 1).float().mean(0))
    (grad,) = torch.autograd.grad(shares[:, 1].sum(), x)
    assert grad.abs().sum() > 0


def test_every_row_is_in_one_part_that_depends_on_its_values_alone() -> None:
    data = plane(60)
    whole = divide(data, PARTS)
    assert sorted(torch.cat(whole).tolist()) == list(range(60))
    order = torch.randperm(60, generator=generator(3))
    mixed = divide(data[order], PARTS)
    for a, b in zip(whole, mixed, strict=True):
        assert a.tolist() == order[b].tolist()
    other = Samples(data.x, 1 - data.y, 2)
    assert [sorted(r.tolist()) for r in divide(other, PARTS)] == [sorted(r.tolist()) for r in whole]


def test_a_row_more_or_less_or_relabelled_changes_one_net() -> None:
    data = plane()
    before = train(data).net.state_dict()
    relabelled = data.y.clone()
    relabelled[4] = 1 - relabelled[4]
    for changed in (data[torch.arange(30) != 4], Samples(data.x, relabelled, 2)):
        after = train(changed).net.state_dict()
        moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
        assert len(moved) == 1


def test_the_order_of_the_rows_plays_no_part() -> None:
    data = plane()
    first, second = train(data), train(data[torch.arange(30).flip(0)])
    assert torch.equal(first.predict(grid()), second.predict(grid()))


def test_no_removal_or_insertion_within_the_radius_changes_a_certified_answer() -> None:
    """Brute force: every row and every pair of the first twelve is removed, and the nets are trained again.

    Then rows are added: the corners and the centre of the square with either label, one and two at a time. On
    an input that is certain up to 1 (2) changes, the answer must be the same after each. The radii are not
    empty words: some answers beyond their radius do change.
    """
    data, points = plane(), grid()
    known = certify(train(data), points)
    assert int(known.radius.max()) >= 2
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    added = [(c, label) for c in corners for label in (0, 1)]
    changed = 0
    for count in (1, 2):
        worlds = [without(data, rows) for rows in combinations(range(30 if count == 1 else 12), count)]
        worlds += [with_rows(data, rows) for rows in combinations(added, count)]
        for world in worlds:
            same = certify(train(world), points).label == known.label
            assert bool(same[known.radius >= count].all())
            changed += int((~same).sum())
    assert changed > 0


def without(data: Samples, rows: tuple[int, ...]) -> Samples:
    keep = torch.ones(len(data), dtype=torch.bool)
    keep[list(rows)] = False
    return data[keep]


def with_rows(data: Samples, rows: tuple[tuple[Tensor, int], ...]) -> Samples:
    x = torch.stack([row for row, _ in rows])
    y = torch.tensor([label for _, label in rows])
    return Samples(torch.cat([data.x, x]), torch.cat([data.y, y]), 2)


def test_parts_without_rows_vote_all_the_same() -> None:
    model = train(plane(3), parts=20)
    assert model.predict(grid()).sum(1).allclose(torch.ones(81))


def test_dropout_in_one_part_does_not_hang_on_another() -> None:
    """Members draw from streams of their own, also in layers that use torch's generators."""
    make = partial(nn.Sequential, nn.Dropout(0.5), nn.Linear(2, 2))
    data = plane()
    how = dpa(Recipe(make, "dropped", epochs=2, batch=4, lr=0.1), parts=PARTS, longer=1)
    before = how(data, rng=generator(1)).net.state_dict()
    after = how(data[torch.arange(30) != 4], rng=generator(1)).net.state_dict()
    assert len({n.split(".")[1] for n in before if not torch.equal(before[n], after[n])}) <= 1


def test_models_without_votes_and_trainings_in_stages_are_refused() -> None:
    with pytest.raises(NotApplicable, match="votes"):
        certify(Classifier(linear(), 2, (2,)), grid())
    with pytest.raises(UsageError, match="one stage"):
        dpa(dpa(recipe()))
