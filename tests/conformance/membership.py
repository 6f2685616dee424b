"""What membership inference attacks must keep, one function per promise.

The target is a table: it recognises its training rows and gives their class a higher logit, which
is what overfitting looks like from outside. So the truth is known and nothing is trained.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.core.data import Samples, Shadow, World
from casemate.core.errors import Cancelled
from casemate.core.registry import Entry
from casemate.core.target import Classifier, GradientOracle, LabelOracle, Ledger
from casemate.core.tick import Tick, ignore
from conformance import models
from conformance.bystanders import bits, generator, stop, untouched

Check = Callable[[Entry], None]
CHECKS: list[Check] = []
SHAPE = (1, 3, 3)


def check(function: Check) -> Check:
    """Add a promise to the battery."""
    CHECKS.append(function)
    return function


class Memory(nn.Module):
    """Logits that depend on the row alone, but for a bonus on the label of remembered rows."""

    def __init__(self, seen: Samples, bonus: float, seed: int) -> None:
        super().__init__()
        self.register_buffer("x", seen.x.flatten(1))
        self.register_buffer("y", seen.y)
        size = math.prod(seen.shape)
        self.weight = nn.Parameter(torch.randn(seen.classes, size, generator=generator(seed)))
        self.bonus = bonus

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out = (flat - 0.5) @ self.weight.T
        if not len(self.x):
            return out
        distance, nearest = torch.cdist(flat.to(self.x), self.x).min(1)
        known = (distance < 1e-3).to(out) * self.bonus
        return out + known[:, None] * nn.functional.one_hot(self.y[nearest], out.shape[1]).to(out)


@dataclass(frozen=True)
class Setting:
    """A target, the rows to be scored and which of them it was trained on."""

    target: Classifier
    rows: Samples
    members: Tensor
    bonus: float
    asked: list[LabelOracle]

    @property
    def world(self) -> World:
        return World(samples(40, self.rows.classes, 9), self._shadows)

    def _shadows(self, count: int) -> Sequence[Shadow]:
        """Each shadow is trained on a random half of the rows, and half of the rows is its truth."""
        shadows = []
        for i in range(count):
            members = torch.rand(len(self.rows), generator=generator(100 + i)) < 0.5
            net = Memory(self.rows[members], self.bonus, 200 + i)
            shadow = Classifier(net, self.rows.classes, SHAPE)
            oracle = GradientOracle(shadow, len(self.rows))
            self.asked.append(oracle)
            shadows.append(Shadow(oracle, members))
        return shadows


def samples(n: int = 60, classes: int = 4, seed: int = 0) -> Samples:
    """Random rows with every class in turn."""
    return Samples(torch.rand(n, *SHAPE, generator=generator(seed)), torch.arange(n) % classes, classes)


def setting(n: int = 60, classes: int = 4, bonus: float = 4.0) -> Setting:
    """The first half of the rows was in training."""
    rows = samples(n, classes)
    members = torch.arange(n) < n // 2
    target = Classifier(Memory(rows[members], bonus, 7), classes, SHAPE)
    return Setting(target, rows, members, bonus, [])


def score(
    entry: Entry,
    given: Setting,
    seed: int = 0,
    tick: Tick = ignore,
    ledger: Ledger | None = None,
    **params: Any,
) -> Tensor:
    """Run a membership attack and check the form of what it returns."""
    n = len(given.rows)
    oracle = entry.access(given.target, n if ledger is None else ledger)
    settings = entry.validate(params)
    scores = entry.run(
        oracle, given.rows.x, given.rows.y, given.world, rng=generator(seed), tick=tick, **settings
    )
    assert scores.shape == (n,)
    assert scores.is_floating_point()
    assert not scores.requires_grad
    assert scores.isfinite().all(), "a score is no number, so it has no rank"
    return scores


def auc(scores: Tensor, members: Tensor) -> float:
    """Share of pairs (member, other) in which the member scores higher; ties count half."""
    gaps = scores[members][:, None] - scores[~members][None]
    return float((gaps > 0).double().mean() + (gaps == 0).double().mean() / 2)


@check
def scores_members_higher(entry: Entry) -> None:
    """On a target that remembers: AUC well above chance, and not below it (pitfall M3)."""
    given = setting()
    assert auc(score(entry, given), given.members) > 0.9


@check
def sees_no_members_where_there_are_none(entry: Entry) -> None:
    """On a target that remembers nothing the AUC is that of chance.

    Under chance the AUC of 100 and 100 rows has a standard deviation of
    sqrt(201 / (12 * 100 * 100)) = 0.041; four of them are 0.164.
    """
    given = setting(200, bonus=0.0)
    assert abs(auc(score(entry, given), given.members) - 0.5) < 0.164


@check
def swaps_with_its_classes(entry: Entry) -> None:
    """A target trained on the other half turns the ranking round (pitfall M3)."""
    given = setting()
    other = replace(given, target=Classifier(Memory(given.rows[~given.members], given.bonus, 7), 4, SHAPE))
    scores = score(entry, other)
    assert auc(scores, ~given.members) > 0.9
    assert auc(scores, given.members) == pytest.approx(1 - auc(scores, ~given.members))


@check
def gives_numbers_for_confident_models(entry: Entry) -> None:
    """Logits of thousands saturate a softmax; the scores still rank (pitfalls G2, M1)."""
    for bonus in (50.0, 1e4):
        given = setting(bonus=bonus)
        assert auc(score(entry, given), given.members) > 0.9
    sure = setting()
    constant = replace(sure, target=Classifier(models.Linear(torch.zeros(4, 9)), 4, SHAPE))
    score(entry, constant)


@check
def takes_any_number_of_classes_and_rows(entry: Entry) -> None:
    for classes in (2, 3, 100):
        score(entry, setting(20, classes))
    for n in (0, 1, 2):
        score(entry, setting(n))


@check
def repeats_itself(entry: Entry) -> None:
    assert bits(score(entry, setting())) == bits(score(entry, setting()))


@check
def permutes_with_its_rows(entry: Entry) -> None:
    """A row's score does not depend on its place."""
    given = setting()
    order = torch.randperm(len(given.rows), generator=generator(3))
    mixed = replace(given, rows=given.rows[order], members=given.members[order])
    # shadows are drawn by place: keep each row in the shadows it was in
    halves = [torch.rand(len(order), generator=generator(100 + i)) < 0.5 for i in range(1000)]
    expected, got = score(entry, given), score(entry, replace_shadows(mixed, order, halves))
    torch.testing.assert_close(got, expected[order], rtol=1e-4, atol=1e-5)


def replace_shadows(mixed: Setting, order: Tensor, halves: list[Tensor]) -> Setting:
    """Give a permuted setting the shadows of the original."""

    class Permuted(Setting):
        def _shadows(self, count: int) -> Sequence[Shadow]:
            shadows = []
            for i in range(count):
                members = halves[i][order]
                net = Memory(self.rows[members], self.bonus, 200 + i)
                shadows.append(Shadow(GradientOracle(Classifier(net, 4, SHAPE), len(order)), members))
            return shadows

    return Permuted(mixed.target, mixed.rows, mixed.members, mixed.bonus, [])


@check
def leaves_everything_alone(entry: Entry) -> None:
    """Rows, labels, target, shadows' membership and the global generators stay as they are."""
    given = setting()
    given.target.net.train()
    before = bits(given.rows.x, given.rows.y)
    net = models.state(given.target.net)
    with untouched():
        score(entry, given)
    assert bits(given.rows.x, given.rows.y) == before
    assert models.state(given.target.net) == net


@check
def asks_only_about_its_rows(entry: Entry) -> None:
    """Every row costs the same, on the target and on each shadow, and not more than a few passes."""
    given = setting()
    ledger = Ledger.empty(len(given.rows))
    score(entry, given, ledger=ledger)
    assert len(set(ledger.queries.tolist())) == 1
    assert 1 <= int(ledger.queries[0]) <= 100
    for oracle in given.asked:
        assert len(set(oracle.ledger.queries.tolist())) == 1


@check
def stops_when_a_tick_raises(entry: Entry) -> None:
    with pytest.raises(Cancelled, match="enough"):
        score(entry, setting(), tick=stop)
