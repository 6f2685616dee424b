"""Square against closed forms on linear models, and its proposals one by one."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.square import _bump, _sides, square
from casemate.core.target import Classifier, Prepared, ScoreOracle
from casemate.core.threat import Lp, Misclassify, NeverReached
from casemate.ops.norms import Norm
from casemate.ops.rng import rows

SHAPE = (2, 5, 6)
EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.4}
BOTH = pytest.mark.parametrize("norm", ["linf", "l2"])


def inputs(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """Values in [0.3, 0.7], from which no ball used here reaches the box."""
    return 0.3 + 0.4 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def linear(shape: tuple[int, ...] = SHAPE, classes: int = 2, seed: int = 1) -> tuple[Classifier, Tensor]:
    """Logits W (x - 1/2), and W."""
    values = torch.Size(shape).numel()
    weight = torch.randn(classes, values, generator=torch.Generator().manual_seed(seed))
    net = nn.Sequential(nn.Flatten(), nn.Linear(values, classes))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(-weight.sum(1) / 2)
    return Classifier(net, classes, shape), weight


class Watched(Prepared):
    """A prepared target that keeps what it is asked."""

    def __init__(self, target: Classifier) -> None:
        super().__init__(target)
        self.asked: list[Tensor] = []

    def quick(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        return super().quick(x)


def labels(target: Classifier, x: Tensor) -> Tensor:
    return target.predict(x).argmax(1)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 5, 6), (12,), (3, 4)])
def test_linf_search_reaches_the_optimum_of_a_linear_model(shape: tuple[int, ...]) -> None:
    """The margin is v x with v = w_1 - w_0; its largest gain in the ball is eps * |v|_1."""
    target, weight = linear(shape)
    x, y = inputs(4, shape), torch.zeros(4, dtype=torch.int64)
    goal = NeverReached(Misclassify(y))
    x_adv = square(ScoreOracle(target, 4), x, goal, Lp(norm="linf", eps=0.1), queries=1500, rng=rows(0, 4))
    gain = (x_adv - x).flatten(1) @ (weight[1] - weight[0])
    torch.testing.assert_close(gain, (0.1 * (weight[1] - weight[0]).abs().sum()).expand(4), rtol=1e-5, atol=0)


def test_l2_search_comes_near_the_optimum_of_a_linear_model() -> None:
    """The largest gain in the ball is eps * |v|_2; one random direction gets 1 / sqrt(16) of it."""
    target, weight = linear((1, 4, 4))
    x, y = inputs(4, (1, 4, 4)), torch.zeros(4, dtype=torch.int64)
    goal = NeverReached(Misclassify(y))
    x_adv = square(ScoreOracle(target, 4), x, goal, Lp(norm="l2", eps=0.2), queries=1000, rng=rows(0, 4))
    gain = (x_adv - x).flatten(1) @ (weight[1] - weight[0])
    optimum = 0.2 * (weight[1] - weight[0]).norm()
    assert (gain <= optimum * (1 + 1e-5)).all()
    assert (gain >= 0.75 * optimum).all()


def test_linf_proposals_change_one_window_to_the_ends_of_the_range() -> None:
    """Each question differs from the best point so far in one rectangle, with one sign per channel."""
    target, _ = linear()
    x = inputs(1)
    x[0, :, :2] *= 0.1  # near the box, so that clipping shows
    watched, goal, budget = Watched(target), Misclassify(torch.tensor([0])), Lp(norm="linf", eps=0.1)
    never = NeverReached(goal)
    square(ScoreOracle(watched, 1), x, never, budget, queries=400, rng=rows(3, 1))
    start = watched.asked[1][0]
    low, high = (x[0] - 0.1).clamp(0, 1), (x[0] + 0.1).clamp(0, 1)
    assert torch.where(start == high, high, low).equal(start)
    assert (start == high).all(1).logical_or((start == low).all(1)).all(), "stripes are vertical"
    best, value = start, never.loss(target.predict(start[None]), "margin")
    for question, side in zip(watched.asked[2:], _sides(399, 0.8, SHAPE, budget), strict=True):
        changed = (question[0] != best).any(0).nonzero()
        if len(changed):
            assert ((changed.max(0).values - changed.min(0).values) < torch.tensor(side)).all()
        for channel, (new, old) in enumerate(zip(question[0], best, strict=True)):
            moved = new != old
            up, down = new == high[channel], new == low[channel]
            assert up[moved].all() or down[moved].all()
        asked = never.loss(target.predict(question), "margin")
        if asked > value:
            best, value = question[0], asked


def test_l2_proposals_spend_the_whole_radius_and_touch_two_windows() -> None:
    """Away from the box every question has |x' - x| = eps: what one window gives, another gets."""
    target, _ = linear((2, 9, 8))
    x = inputs(1, (2, 9, 8))
    watched, goal = Watched(target), NeverReached(Misclassify(torch.tensor([0])))
    budget = Lp(norm="l2", eps=0.4)
    square(ScoreOracle(watched, 1), x, goal, budget, queries=300, rng=rows(4, 1))
    sizes = torch.stack([(question - x).norm() for question in watched.asked[1:]])
    torch.testing.assert_close(sizes, torch.full_like(sizes, 0.4), rtol=1e-5, atol=0)
    best, value = watched.asked[1], goal.loss(target.predict(watched.asked[1]), "margin")
    for question, (h, w) in zip(watched.asked[2:], _sides(299, 0.8, (2, 9, 8), budget), strict=True):
        assert (question != best).any(1).sum() <= 2 * h * w
        asked = goal.loss(target.predict(question), "margin")
        if asked > value:
            best, value = question, asked


def test_windows_shrink_on_the_schedule_of_the_paper() -> None:
    """Of 10,000 steps on 28 x 28: side round(28 sqrt(0.8 / 2^k)), halved after 10, 50, 200, ..."""
    sides = _sides(10_000, 0.8, (1, 28, 28), Lp(norm="linf", eps=0.1))
    at = [0, 10, 11, 50, 51, 200, 201, 1000, 1001, 2001, 4001, 6001, 8001]
    # 28 sqrt(0.8) = 25.04; each halving divides by sqrt(2)
    expected = [25, 25, 18, 18, 13, 13, 9, 9, 6, 4, 3, 2, 2]
    assert [sides[i] for i in at] == [(side, side) for side in expected]


def test_a_shorter_search_passes_through_the_same_windows() -> None:
    short, long = (_sides(n, 0.8, (3, 32, 32), Lp(norm="linf", eps=0.1)) for n in (1000, 10_000))
    assert short == long[: 10 * 999 : 10]


def test_l2_windows_are_odd_and_at_least_three_wide() -> None:
    sides = set(_sides(1000, 0.8, (3, 31, 31), Lp(norm="l2", eps=0.1)))
    assert all(h == w and h % 2 == 1 and h >= 3 for h, w in sides)


def test_tables_are_searched_by_intervals_of_the_same_share() -> None:
    """Of 40 columns, 0.8 / 2^k: 32, 16, 8, 4, 2, ... until the interval is one column."""
    sides = _sides(10_000, 0.8, (1, 1, 40), Lp(norm="linf", eps=0.1))
    assert list(dict.fromkeys(sides)) == [(1, 32), (1, 16), (1, 8), (1, 4), (1, 2), (1, 1)]


def test_the_bump_is_a_hill_beside_a_hollow_of_size_one() -> None:
    """For 2 x 2: halves of one line, whose rings are 1/4 outside and 1 + 1/4 in the middle."""
    bump = _bump((2, 2), 0)
    # (0.25, 1.25) has length sqrt(1.625), and two such lines sqrt(3.25)
    line = torch.tensor([0.25, 1.25]) / 3.25**0.5
    torch.testing.assert_close(bump, torch.stack([line, -line]))
    assert torch.equal(_bump((2, 2), 1), bump.t())
    for side in ((1, 1), (1, 5), (5, 1), (7, 4)):
        torch.testing.assert_close(_bump(side, 0).norm(), torch.tensor(1.0))
        assert _bump(side, 1).shape == side


@BOTH
def test_queries_per_row_never_exceed_either_limit(norm: Norm) -> None:
    target, _ = linear()
    x = inputs(5)
    goal = NeverReached(Misclassify(labels(target, x)))
    for limit, own, spent in ((7, 100, 7), (100, 7, 7), (1, 100, 1), (2, 100, 2), (None, 9, 9)):
        oracle = ScoreOracle(target, 5)
        square(oracle, x, goal, Lp(norm=norm, eps=EPS[norm], queries=limit), queries=own, rng=rows(0, 5))
        assert oracle.ledger.queries.tolist() == [spent] * 5


@BOTH
def test_more_queries_fool_no_fewer_rows(norm: Norm) -> None:
    target, _ = linear((1, 8, 8), 3)
    x = inputs(40, (1, 8, 8))
    y = labels(target, x)
    budget = Lp(norm=norm, eps=EPS[norm] / 2)
    hits = []
    for queries in (1, 4, 20, 100, 500):
        oracle = ScoreOracle(target, 40)
        x_adv = square(oracle, x, Misclassify(y), budget, queries=queries, rng=rows(0, 40))
        hits.append(int((labels(target, x_adv) != y).sum()))
    assert hits == sorted(hits)
    assert hits[0] == 0 < hits[-1]


@BOTH
def test_s6_the_best_point_is_kept(norm: Norm) -> None:
    """The mean margin that ticks tell never falls, and the result has the last one told."""
    target, _ = linear()
    x = inputs(4)
    goal = NeverReached(Misclassify(labels(target, x)))
    told: list[float] = []

    def tick(step: int, total: int, values: Mapping[str, float], /) -> None:
        told.append(values["margin"])

    budget = Lp(norm=norm, eps=EPS[norm])
    x_adv = square(ScoreOracle(target, 4), x, goal, budget, queries=200, rng=rows(0, 4), tick=tick)
    assert told == sorted(told)
    assert goal.loss(target.predict(x_adv), "margin").mean().item() == pytest.approx(told[-1], rel=1e-5)


@BOTH
def test_s2_a_row_depends_on_its_own_stream_only(norm: Norm) -> None:
    """Alone, in another order or among rows that leave early, a row gets the same answer."""
    target, _ = linear(classes=4)
    x, budget = inputs(9), Lp(norm=norm, eps={"linf": 0.02, "l2": 0.2}[norm])
    y = labels(target, x)

    def attack(numbers: list[int]) -> Tensor:
        index = torch.tensor(numbers)
        oracle = ScoreOracle(target, len(index))
        return square(oracle, x[index], Misclassify(y[index]), budget, queries=150, rng=rows(0, numbers))

    together = attack(list(range(9)))
    fooled = labels(target, together) != y
    assert fooled.any()
    assert not fooled.all()
    for numbers in ([0], [8, 3], [5, 4, 3, 2, 1]):
        torch.testing.assert_close(attack(numbers), together[numbers], rtol=0, atol=1e-6)


@BOTH
def test_s3_rows_that_cannot_fall_and_rows_that_have_fallen_come_back(norm: Norm) -> None:
    """A row that is wrong already comes back as it is, after one query; a constant model wins."""
    target, _ = linear()
    x = inputs(4)
    y = labels(target, x)
    wrong = torch.tensor([True, False, True, False])
    oracle = ScoreOracle(target, 4)
    goal = Misclassify(torch.where(wrong, 1 - y, y))
    x_adv = square(oracle, x, goal, Lp(norm=norm, eps=1e-4), queries=50, rng=rows(0, 4))
    assert torch.equal(x_adv[wrong], x[wrong])
    assert oracle.ledger.queries.tolist() == [1, 50, 1, 50]
    with torch.no_grad():
        target.net[1].weight.zero_()
        target.net[1].bias.zero_()
    oracle = ScoreOracle(target, 4)
    zeros = torch.zeros(4, dtype=torch.int64)
    x_adv = square(oracle, x, Misclassify(zeros), Lp(norm=norm, eps=EPS[norm]), queries=50, rng=rows(0, 4))
    assert labels(target, x_adv).eq(0).all()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_n5_the_ball_is_kept_in_every_precision(norm: Norm, dtype: torch.dtype) -> None:
    """To the radius, 1e-6 of it and the rounding of x + delta: half a unit in the last place each."""
    target, _ = linear()
    target.net.to(dtype)
    x = inputs(6).to(dtype)
    x[:, :, 0] = 0.0
    goal = NeverReached(Misclassify(torch.zeros(6, dtype=torch.int64)))
    x_adv = square(ScoreOracle(target, 6), x, goal, Lp(norm=norm, eps=EPS[norm]), queries=60, rng=rows(0, 6))
    delta = (x_adv.double() - x.double()).flatten(1)
    ulp = torch.finfo(dtype).eps / 2
    size, slack = (delta.abs().amax(1), ulp) if norm == "linf" else (delta.norm(dim=1), ulp * 60**0.5)
    assert x_adv.dtype == dtype
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert (size <= EPS[norm] * (1 + 1e-6) + slack).all()
    assert (size >= EPS[norm] / 2).all()


@BOTH
def test_n6_pixels_that_are_exactly_0_or_1_are_moved(norm: Norm) -> None:
    target, _ = linear()
    x = (inputs(6) > 0.5).float()
    y = labels(target, x)
    eps = 4 * EPS[norm]
    x_adv = square(
        ScoreOracle(target, 6), x, Misclassify(y), Lp(norm=norm, eps=eps), queries=300, rng=rows(0, 6)
    )
    assert (labels(target, x_adv) != y).sum() >= 4
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
