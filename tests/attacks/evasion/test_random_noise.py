"""Random noise: as large as its budget allows, and as likely to succeed as geometry says."""

import pytest
import torch
from torch import Tensor

from casemate.attacks.evasion.random_noise import random_noise
from casemate.core.target import Classifier, LabelOracle, Prepared
from casemate.core.threat import Goal, Lp, Misclassify, NeverReached
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conformance.models import never_fooled

EPS = {"linf": 0.2, "l2": 0.7, "l1": 3.0, "l0": 4.0}
NORMS = pytest.mark.parametrize("norm", list(EPS))


class Edge(torch.nn.Module):
    """Two classes: 1 where the first value exceeds 1/2."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-first, first], 1)


def edge(n: int, first: float, d: int = 3) -> tuple[Classifier, Tensor, Goal]:
    x = torch.full((n, d), 0.5, dtype=torch.float64)
    x[:, 0] = first
    return Classifier(Edge(), 2, (d,)), x, Misclassify(torch.zeros(n, dtype=torch.int64))


def run(target: Classifier, x: Tensor, goal: Goal, norm: str, eps: float, draws: int, **budget):
    oracle = LabelOracle(Prepared(target), len(x))
    budget = Lp(norm=norm, eps=eps, **budget)
    return random_noise(oracle, x, goal, budget, draws=draws, rng=rows(0, len(x))), oracle.ledger


@NORMS
def test_the_first_draw_spends_the_whole_radius_also_at_the_edges(norm):
    """A third of the values at 0, a third at 1: noise that is clipped there would be smaller."""
    x = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat(10, 4)
    target, _, goal = edge(10, 0.5, 12)
    x_adv, _ = run(target, x, NeverReached(goal), norm, EPS[norm], draws=1)
    torch.testing.assert_close(size(x_adv - x, norm), torch.full((10,), EPS[norm], dtype=torch.float64))


def test_the_first_linf_draw_moves_every_value_by_eps_or_not_at_all():
    target, x, goal = edge(50, 0.4)
    x[:, 1] = 0.0
    x_adv, _ = run(target, x, NeverReached(goal), "linf", 0.2, draws=1)
    moves = (x_adv - x).T
    assert {round(v, 9) for v in moves[0].tolist()} == {-0.2, 0.2}
    assert {round(v, 9) for v in moves[1].tolist()} == {0.0, 0.2}


def test_one_draw_succeeds_half_the_time_in_linf():
    """At distance 0.1 < eps the first value's sign decides: 500 of 1,000, give or take four deviations."""
    target, x, goal = edge(1000, 0.4)
    x_adv, _ = run(target, x, goal, "linf", 0.2, draws=1)
    hits = int(goal.reached(target.predict(x_adv)).sum())
    assert abs(hits - 500) <= 4 * (1000 / 4) ** 0.5


def test_the_second_draw_is_uniform_in_the_ball():
    """It succeeds with (eps - m) / (2 eps) = 1/4 at distance m = 0.1; so two draws fail with 1/2 * 3/4."""
    target, x, goal = edge(1000, 0.4)
    x_adv, _ = run(target, x, goal, "linf", 0.2, draws=2)
    hits = int(goal.reached(target.predict(x_adv)).sum())
    assert abs(hits - 625) <= 4 * (1000 * 0.625 * 0.375) ** 0.5


def test_noise_never_reaches_farther_than_its_radius():
    target, x, goal = edge(200, 0.29)
    x_adv, _ = run(target, x, goal, "linf", 0.2, draws=20)
    assert not goal.reached(target.predict(x_adv)).any()


@NORMS
def test_the_first_draw_that_works_is_kept(norm):
    """The draws of a row are those of a run that never ends; kept is the first that reaches the goal."""
    target, x, goal = edge(40, 0.42)
    tries = [run(target, x, NeverReached(goal), norm, EPS[norm] / 2, draws=k)[0] for k in range(1, 7)]
    kept, ledger = run(target, x, goal, norm, EPS[norm] / 2, draws=6)
    hits = torch.stack([goal.reached(target.predict(x_adv)) for x_adv in tries])
    for i in range(40):
        works = hits[:, i].nonzero().flatten().tolist()
        first = works[0] if works else 5
        assert torch.equal(kept[i], tries[first][i])
        assert ledger.queries[i] == min(first + 1, 5)


def test_G7_the_last_draw_is_left_to_the_judge():
    setting = never_fooled()
    for draws in (1, 2, 7):
        _, ledger = run(setting.target, setting.x, Misclassify(setting.y), "l2", 0.5, draws)
        assert ledger.queries.tolist() == [draws - 1] * 4


def test_a_budget_of_queries_limits_the_draws():
    """Three queries judge three draws, and the harness judges a fourth."""
    setting = never_fooled()
    goal = Misclassify(setting.y)
    limited, ledger = run(setting.target, setting.x, goal, "linf", 0.1, draws=50, queries=3)
    assert ledger.queries.tolist() == [3] * 4
    assert torch.equal(limited, run(setting.target, setting.x, goal, "linf", 0.1, draws=4)[0])


@NORMS
def test_S6_more_draws_never_lower_success(norm):
    target, x, goal = edge(100, 0.45)
    before = torch.zeros(100, dtype=torch.bool)
    for draws in (1, 2, 4, 8):
        now = goal.reached(target.predict(run(target, x, goal, norm, EPS[norm] / 3, draws)[0]))
        assert (now | ~before).all()
        before = now
    assert before.any()
