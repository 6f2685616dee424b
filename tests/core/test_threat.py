"""Goals and budgets."""

import math

import pytest
import torch

from casemate.core.errors import NotApplicable, UsageError
from casemate.core.threat import (
    Become,
    Clearly,
    Lp,
    Misclassify,
    NeverReached,
    Towards,
    directions,
    format_eps,
    parse_eps,
    within,
)
from casemate.ops import losses

LOGITS = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 4.0, 1.0, 2.0], [1.0, 0.0, 5.0, 2.0]])
Y = torch.tensor([0, 1, 0])


# --- goals ----------------------------------------------------------------------------------------


def test_misclassification_is_any_other_class():
    assert Misclassify(Y).reached(LOGITS).tolist() == [False, False, True]


def test_becoming_a_class_is_that_class_only():
    assert Become(torch.tensor([0, 2, 2])).reached(LOGITS).tolist() == [True, False, True]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("goal", [Misclassify(torch.tensor([0])), Become(torch.tensor([2]))])
def test_answers_that_are_no_numbers_reach_no_goal(goal, value):
    assert not goal.reached(torch.tensor([[0.0, value, 5.0]])).any()


@pytest.mark.parametrize("kind", ["ce", "margin", "dlr"])
def test_the_loss_of_a_goal_is_positive_where_it_is_reached(kind):
    """Log-odds of error of at least one half would be 0; margin and ratio change sign at the boundary."""
    goals = [Misclassify(Y)] if kind == "ce" else [Misclassify(Y), Become(torch.tensor([0, 2, 2]))]
    for goal in goals:
        assert torch.equal(goal.loss(LOGITS, kind) > 0, goal.reached(LOGITS))


@pytest.mark.parametrize("kind", ["ce", "margin", "dlr"])
def test_G5_the_loss_of_a_target_rises_with_its_logit(kind):
    goal = Become(torch.tensor([3, 3, 3]))
    higher = LOGITS + 0.01 * torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert (goal.loss(higher, kind) > goal.loss(LOGITS, kind)).all()


@pytest.mark.parametrize("kind", ["ce", "margin", "dlr"])
def test_goals_restrict_to_rows(kind):
    t = torch.tensor([1, 3, 1])
    for goal in (Misclassify(Y), Become(t), Towards(Misclassify(Y), Y, t), NeverReached(Misclassify(Y))):
        for rows in (torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 3)):
            assert torch.equal(goal[rows].reached(LOGITS[rows]), goal.reached(LOGITS)[rows])
            torch.testing.assert_close(goal[rows].loss(LOGITS[rows], kind), goal.loss(LOGITS, kind)[rows])


def test_a_direction_steers_to_its_class_but_is_granted_as_the_whole_goal_is():
    t = torch.tensor([1, 2, 3])
    goal = Towards(Misclassify(Y), Y, t)
    assert torch.equal(goal.reached(LOGITS), Misclassify(Y).reached(LOGITS))
    assert goal.loss(LOGITS, "margin").tolist() == [-2.0, -3.0, 1.0]
    torch.testing.assert_close(goal.loss(LOGITS, "dlr"), losses.targeted_dlr(LOGITS, Y, t))
    torch.testing.assert_close(goal.loss(LOGITS, "ce"), Become(t).loss(LOGITS, "ce"))


def test_a_goal_that_never_ends_keeps_its_loss():
    goal = NeverReached(Misclassify(Y))
    assert not goal.reached(LOGITS).any()
    assert torch.equal(goal.loss(LOGITS), Misclassify(Y).loss(LOGITS))


def test_untargeted_goals_split_into_the_likeliest_other_classes():
    """Row 0 (class 0): 2, 1, 3; row 1 (class 1): 3, 2, 0; row 2 (class 0): 2, 3, 1."""
    ways = directions(Misclassify(Y), LOGITS, 9)
    assert [way.t.tolist() for way in ways] == [[2, 3, 2], [1, 2, 3], [3, 0, 1]]
    assert all(way.y.tolist() == Y.tolist() for way in ways)
    assert len(directions(Misclassify(Y), LOGITS, 2)) == 2


def test_a_goal_with_a_class_is_its_own_direction():
    goal = Become(torch.tensor([1, 1, 1]))
    assert directions(goal, LOGITS, 9) == [goal]


def test_goals_that_never_end_have_directions_that_never_end():
    ways = directions(NeverReached(Misclassify(Y)), LOGITS, 9)
    assert len(ways) == 3
    assert not any(way.reached(LOGITS).any() for way in ways)


def test_goals_without_classes_have_no_directions():
    with pytest.raises(NotApplicable, match="Towards does not name classes"):
        directions(Towards(Misclassify(Y), Y, Y), LOGITS, 9)


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.5", 0.5), (2, 2.0), ("inf", math.inf), ("1e-3", 1e-3)]
)
def test_radii_are_read_as_numbers_or_fractions(text, value):
    assert parse_eps(text) == value


@pytest.mark.parametrize("text", ["8/0", "eight", "1/2/3", None, ""])
def test_other_radii_are_refused_by_name(text):
    with pytest.raises(UsageError, match="must be a number or a fraction such as 8/255"):
        parse_eps(text)


@pytest.mark.parametrize("text", ["8/255", "1/255", "0.2", "0.3", "2.5", "10"])
def test_radii_are_printed_as_they_are_written(text):
    assert format_eps(parse_eps(text)) == text


def test_N4_an_linf_radius_in_levels_is_refused_with_a_hint():
    with pytest.raises(UsageError, match=r"must be in \[0, 1\].*Got 8; did you mean 8/255\?"):
        Lp(norm="linf", eps=8)


@pytest.mark.parametrize("eps", [-1.0, math.nan])
def test_radii_below_zero_are_refused(eps):
    with pytest.raises(UsageError, match="must be at least 0"):
        Lp(norm="l2", eps=eps)


def test_large_radii_are_allowed_where_they_mean_something():
    for budget in (Lp(norm="l2", eps=30), Lp(norm="l1", eps=200), Lp(norm="linf", eps="inf")):
        assert Lp.model_validate_json(budget.model_dump_json()) == budget


def test_attacks_in_a_ball_need_a_finite_radius():
    assert Lp(norm="l2", eps=0.5).radius == 0.5
    with pytest.raises(UsageError, match="must be finite"):
        _ = Lp(norm="l2", eps="inf").radius


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_N5_a_candidate_on_the_sphere_is_within_the_ball_despite_rounding(dtype):
    x = torch.rand(200, 30, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x_adv = x + (8 / 255) * (x < 0.5).to(x).mul(2).sub(1)
    assert torch.equal(within(x_adv, x, Lp(norm="linf", eps="8/255")), x_adv)


def test_a_candidate_outside_the_ball_goes_back_to_the_input():
    x = torch.full((3, 2), 0.5)
    x_adv = torch.tensor([[0.6, 0.5], [0.61, 0.5], [math.nan, 0.5]])
    kept = within(x_adv, x, Lp(norm="linf", eps=0.1))
    assert torch.equal(kept, torch.stack([x_adv[0], x[1], x[2]]))


def test_a_clear_success_is_one_that_rounding_cannot_take_back():
    """The largest logit is 8, so float32's slack is 10 * 2^-23 * 8 = 9.5e-6."""
    goal = Clearly(Misclassify(torch.zeros(3, dtype=torch.int64)))
    logits = torch.tensor([[8.0, 8.0 + 5e-6], [8.0 - 2e-5, 8.0], [8.0, 7.0]])
    assert goal.reached(logits).tolist() == [False, True, False]
    assert goal[torch.tensor([1])].reached(logits[1:2]).all()
    assert torch.equal(goal.loss(logits, "margin"), goal.goal.loss(logits, "margin"))
    assert len(directions(goal, torch.zeros(3, 4), 2)) == 2
