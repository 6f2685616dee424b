import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from casemate.attacks.membership.lira import lira
from casemate.attacks.membership.loss import loss
from casemate.core.data import Samples, Shadow, World
from casemate.core.errors import UsageError
from casemate.core.target import Classifier, Ledger, ScoreOracle
from casemate.ops.rng import generator
from casemate.ops.roc import auc, tpr

ROWS = 4096  # row i has the input i / ROWS, which float32 holds exactly


class Table(nn.Module):
    """Net that gives row i the logits (signal_i, 0): with label 0 its log-odds are the signal."""

    def __init__(self, signal: Tensor) -> None:
        super().__init__()
        self.register_buffer("signal", signal.float())

    def forward(self, x: Tensor) -> Tensor:
        row = self.signal[(x.flatten(1)[:, 0] * ROWS).long()]
        return torch.stack([row, torch.zeros_like(row)], 1)


def oracle(signal: Tensor, n: int) -> ScoreOracle:
    return ScoreOracle(Classifier(Table(signal), 2, (1,)), Ledger.empty(n))


@dataclass
class Toy:
    """Target and shadow models given by their signals."""

    target: Tensor
    shadows: Tensor
    members: Tensor

    def attack(self, **params) -> Tensor:
        n = len(self.target)
        x, y = (torch.arange(n) / ROWS)[:, None], torch.zeros(n, dtype=torch.int64)
        asked = [Shadow(oracle(s, n), m) for s, m in zip(self.shadows, self.members, strict=True)]
        world = World(Samples(x[:0], y[:0], 2), lambda k: asked[:k])
        method = params.pop("method", lira)
        return method(oracle(self.target, n), x, y, world, rng=generator(0), **params)


def gaussian(shadows: int, *, gain: float, hardness: float, spread: Tensor | float = 1.0, seed: int = 0):
    """Signals N(h_i + gain * member, spread_i^2), where rows differ in hardness h_i ~ N(0, hardness^2).

    The first half of the target's rows are members; each row is IN half of the shadows.
    """
    rng = generator(seed)
    level = hardness * torch.randn(ROWS, generator=rng)
    members = torch.rand(shadows, ROWS, generator=rng).argsort(0) < shadows // 2
    truth = torch.arange(ROWS) < ROWS // 2

    def signals(inside: Tensor) -> Tensor:
        return level + gain * inside + spread * torch.randn(inside.shape, generator=rng)

    return Toy(signals(truth), signals(members), members), truth


def rates(scores: Tensor, truth: Tensor):
    found, others = scores[truth].double().numpy(), scores[~truth].double().numpy()
    return auc(found, others), tpr(found, others, 0.01)


def test_scores_are_the_log_likelihood_ratio_of_two_normals():
    """One row, IN signals 3 and 5 (mean 4, variance 2), OUT signals 1 and 1.2 (mean 1.1, variance 0.02).

    log N(2; 4, 2) - log N(2; 1.1, 0.02) = [-(ln 2)/2 - 4/4] - [-(ln 0.02)/2 - 0.81/0.04]."""
    toy = Toy(
        torch.tensor([2.0]),
        torch.tensor([[3.0], [1.0], [5.0], [1.2]]),
        torch.tensor([[1], [0], [1], [0]]).bool(),
    )
    expected = -math.log(2) / 2 - 1 + math.log(0.02) / 2 + 0.81 / 0.04
    assert toy.attack(shadows=4, variance="per_row").tolist() == pytest.approx([expected], rel=1e-4)
    assert toy.attack(shadows=4, variant="offline").tolist() == pytest.approx(
        [0.9 / math.sqrt(0.02)], rel=1e-4
    )


def test_the_global_variance_is_pooled_within_rows():
    """OUT signals -1, 1 of one row and 99, 103 of another: (2 + 8) / (1 + 1) = 5, not the spread of all four."""
    toy = Toy(
        torch.tensor([3.0, 104.0]),
        torch.tensor([[-1.0, 99.0], [1.0, 103.0], [7.0, 7.0], [9.0, 9.0]]),
        torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]]).bool(),
    )
    assert toy.attack(shadows=4, variant="offline").tolist() == pytest.approx([3 / 5**0.5, 3 / 5**0.5])
    own = toy.attack(shadows=4, variant="offline", variance="per_row").tolist()
    assert own == pytest.approx([3 / 2**0.5, 3 / 8**0.5])


def test_M1_lira_reaches_the_best_possible_roc():
    """Who knows each row's hardness h sees N(h, 1) or N(h + 1, 1), so the best test thresholds
    s - h: AUC = Phi(1 / sqrt 2) = 0.760 and TPR at 1% = Phi(1 - z_0.99) = 0.092. With the means of 32
    signals each, the noise of the threshold adds 1/64 to the variance of 1, and the AUC loses about
    0.003; 2048 rows of each kind measure it to 0.0075 (one standard error). The loss attack sees
    hardness as noise: AUC = Phi(1 / sqrt(2 (1 + 9))) = 0.588."""
    toy, truth = gaussian(64, gain=1.0, hardness=3.0)
    area, low = rates(toy.attack(shadows=64, variance="global"), truth)
    assert area.value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.025)
    assert low.low <= norm.cdf(1 - norm.ppf(0.99)) <= low.high
    offline, _ = rates(toy.attack(shadows=64, variant="offline", variance="global"), truth)
    assert offline.value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.025)
    blunt, _ = rates(toy.attack(method=loss), truth)
    assert blunt.value == pytest.approx(norm.cdf(1 / math.sqrt(20)), abs=0.025)


def test_more_shadows_find_more():
    toy, truth = gaussian(64, gain=1.0, hardness=3.0)
    found = [rates(toy.attack(shadows=k), truth)[0].value for k in (4, 16, 64)]
    assert found == sorted(found)


def test_few_shadows_share_a_variance_and_many_have_their_own():
    toy, _ = gaussian(64, gain=1.0, hardness=3.0)
    for shadows, variance in ((63, "global"), (64, "per_row")):
        expected = toy.attack(shadows=shadows, variance=variance)
        assert torch.equal(toy.attack(shadows=shadows), expected)


def test_own_variances_help_where_rows_differ_in_spread():
    """Half of the rows have a third of the spread. Their members stand out three times as far."""
    spread = torch.where(torch.arange(ROWS) % 2 == 0, 0.5, 1.5)
    toy, truth = gaussian(128, gain=1.0, hardness=3.0, spread=spread)
    own, shared = (rates(toy.attack(shadows=128, variance=v), truth)[1] for v in ("per_row", "global"))
    assert own.low > shared.high


def test_nothing_is_found_where_nothing_is_memorised():
    toy, truth = gaussian(16, gain=0.0, hardness=3.0)
    area, low = rates(toy.attack(), truth)
    assert area.low <= 0.5 <= area.high
    assert low.low <= 0.01 <= low.high


def test_M3_swapping_who_is_a_member_mirrors_the_auc():
    """With the shadows told the opposite as well."""
    toy, truth = gaussian(16, gain=1.0, hardness=1.0)
    mirrored = Toy(toy.target, toy.shadows, ~toy.members)
    area, _ = rates(toy.attack(variance="global"), truth)
    swapped, _ = rates(mirrored.attack(variance="global"), truth)
    assert swapped.value == pytest.approx(1 - area.value)


def test_a_row_in_all_or_no_shadows_gets_a_score():
    toy, _ = gaussian(4, gain=1.0, hardness=1.0)
    toy.members[:, 0], toy.members[:, 1] = True, False
    for variant in ("online", "offline"):
        for variance in ("global", "per_row"):
            assert toy.attack(shadows=4, variant=variant, variance=variance).isfinite().all()


def test_shadows_that_agree_to_the_bit_give_finite_scores():
    toy = Toy(torch.ones(3), torch.ones(4, 3), torch.tensor([[0, 0, 0], [1, 1, 1]] * 2).bool())
    assert toy.attack(shadows=4).eq(0).all()


class Corner(nn.Module):
    """Logits (`weight` times the picture's first value, 0)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        row = self.weight * x[:, 0, 0, 0]
        return torch.stack([row, torch.zeros_like(row)], 1)


def test_flipped_views_average_the_scores_of_both():
    """Mirroring swaps the two columns of the pictures, and the net sees the first only."""
    x, y = torch.rand(6, 1, 2, 2, generator=generator(0)), torch.zeros(6, dtype=torch.int64)
    members = torch.tensor([[0, 1] * 3, [1, 0] * 3] * 2).bool()

    def corner(weight: float) -> ScoreOracle:
        return ScoreOracle(Classifier(Corner(weight), 2, (1, 2, 2)), Ledger.empty(6))

    def scores(x: Tensor, views: str) -> Tensor:
        asked = [Shadow(corner(w), m) for w, m in zip((1.1, 0.8, 1.4, 1.3), members, strict=True)]
        world = World(Samples(x[:0], y[:0], 2), lambda k: asked)
        return lira(corner(1.0), x, y, world, shadows=4, views=views, rng=generator(0))

    plain, mirrored = scores(x, "plain"), scores(x.flip(-1), "plain")
    assert not torch.allclose(plain, mirrored)
    assert torch.allclose(scores(x, "flipped"), (plain + mirrored) / 2)


def test_only_pictures_can_be_flipped():
    toy, _ = gaussian(4, gain=1.0, hardness=1.0)
    with pytest.raises(UsageError, match=r"'views' of membership\.lira"):
        toy.attack(shadows=4, views="flipped")
