import torch
from torch import nn

from casemate.assess.families.evasion import ask, attempt, eight_bit, judge
from casemate.assess.worst import robust_accuracy, worst_case
from casemate.core.adaptive import Hooks
from casemate.core.registry import find
from casemate.core.target import Classifier, Ledger, Prepared
from casemate.core.threat import Lp, Misclassify, NeverReached


def judged(target, points, x_adv, eps=0.1, norm="linf"):
    budget = Lp(norm=norm, eps=eps)
    return judge(target, points.x, x_adv, Misclassify(points.y), budget, Ledger.empty(len(points)))


def test_R1_success_is_recomputed_from_the_returned_tensor(two_class, points):
    """Moving x0 by 0.1 to the other side crosses 0.5 exactly for the two points 0.45 and 0.55."""
    away = torch.where(points.y == 1, -0.1, 0.1)
    x_adv = points.x + torch.stack([away, torch.zeros_like(away)], 1)
    found = judged(two_class, points, x_adv)
    assert found.fooled.tolist() == [False] * 4 + [True, True] + [False] * 4


def test_a_candidate_outside_the_ball_does_not_count(two_class, points):
    found = judged(two_class, points, 1 - points.x, eps=0.1)
    assert found.reached.all()
    near = (points.x[:, 0] - 0.5).abs() <= 0.0501
    assert torch.equal(found.fooled, near)


def test_N4_a_candidate_outside_the_box_does_not_count_and_is_reported(two_class, points):
    x_adv = points.x.clone()
    x_adv[0, 0] = 1.2
    found = judged(two_class, points, x_adv, eps=1.0)
    assert found.stray.tolist() == [True] + [False] * 9
    assert not found.fooled.any()


def test_a_candidate_that_is_not_a_number_does_not_count(two_class, points):
    x_adv = points.x.clone()
    x_adv[3] = float("nan")
    assert not judged(two_class, points, x_adv, eps=1.0).fooled.any()


def test_N2_reported_norms_are_those_of_the_returned_tensor(two_class, points):
    delta = torch.zeros_like(points.x)
    delta[:, 0], delta[:, 1] = 0.03, 0.04
    found = judged(two_class, points, points.x + delta, norm="l2")
    torch.testing.assert_close(found.norms, torch.full((10,), 0.05))


def test_N3_rounding_to_8_bits_stays_in_the_ball():
    """x on the 8-bit grid and x + 8/255 exactly: truncation elsewhere made 9/255 of it."""
    x = torch.randint(0, 248, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float() / 255
    budget = Lp(norm="linf", eps=8 / 255)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) * 16 / 255 - 8 / 255
    for x_adv in ((x + noise).clamp(0, 1), (x + 8 / 255).clamp(0, 1)):
        levels = eight_bit(x_adv, x, budget) * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert float((levels - x * 255).abs().max()) < 8.001


def test_R4_adding_an_attack_never_raises_the_worst_case():
    rng = torch.Generator().manual_seed(0)
    attacks = [torch.rand(40, generator=rng) > 0.3 for _ in range(6)]
    values = [robust_accuracy(attacks[: k + 1]).value for k in range(6)]
    assert values == sorted(values, reverse=True)
    assert torch.equal(worst_case(attacks), torch.stack(attacks).all(0))


class Coin(nn.Module):
    """Class 1 with a probability that the first value gives, anew for each row and answer."""

    def forward(self, x):
        one = (torch.rand(len(x)) < x[:, 0]).float()
        return torch.stack([1 - one, one], 1)


def test_most_answers_judge_a_random_target_and_any_answer_is_told():
    """Of 101 answers at p = 0.1, 0.5 +- and 0.9 the majority is 0 and 1; all 101 alike has p < 1e-4."""
    target = Classifier(Coin(), 2, (1,))
    x = torch.tensor([[0.1], [0.9], [0.0], [1.0]])
    state = torch.random.get_rng_state()
    seen = ask(target, x, Misclassify(torch.zeros(4, dtype=torch.int64)), 101, 0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert seen.mostly.tolist() == [False, True, False, True]
    assert seen.once.tolist() == [True, True, False, True]
    assert seen.label.tolist() == [0, 1, 0, 1]


def test_hooks_reach_attacks_with_gradients_and_no_others():
    """Three draws triple the passes of PGD; a question of random noise stays one."""
    target = Classifier(nn.Sequential(nn.Linear(2, 2)), 2, (2,))
    x, y = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(3, dtype=torch.int64)
    spent = {}
    for name, params in (("evasion.pgd", {"steps": 4}), ("evasion.random_noise", {"draws": 5})):
        entry = find(name)
        found = attempt(
            entry, Prepared(target), x, NeverReached(Misclassify(y)), Lp(norm="linf", eps=0.01),
            params=entry.validate(params), numbers=torch.arange(3), seed=0, hooks=Hooks(eot=3),
        )  # fmt: skip
        spent[name] = found.ledger.queries.tolist()
    assert spent == {"evasion.pgd": [12] * 3, "evasion.random_noise": [4] * 3}
