"""The methods of Kurakin et al. on linear models, where their ends are known."""

import pytest
import torch

from casemate.attacks.physical.printed import printed
from casemate.core.errors import NotApplicable
from casemate.core.physical import Print, Sticker
from casemate.core.target import GradientOracle
from casemate.core.threat import Misclassify
from casemate.ops.rng import rows
from conformance.models import linear


def run(setting, budget, **params):
    oracle = GradientOracle(setting.target, len(setting.x))
    goal = Misclassify(setting.y)
    x_adv = printed(oracle, setting.x, goal, budget, rng=rows(0, len(setting.x)), **params)
    return x_adv, oracle.ledger


@pytest.mark.parametrize(("levels", "steps"), [(1, 2), (2, 3), (4, 5), (8, 10), (16, 20), (32, 36), (64, 68)])
def test_the_number_of_steps_is_the_papers(levels, steps):
    """min(eps + 4, 1.25 eps) in levels, rounded up: 1.25, 2.5, 5, 10, 20, 36, 68."""
    _, ledger = run(linear(), Print(eps=levels / 255))
    assert set(ledger.gradients.tolist()) == {steps}


@pytest.mark.parametrize("method", ["fast", "basic_iterative"])
def test_on_two_classes_every_value_moves_by_the_radius_along_the_weights(method):
    """The margin is linear in x, so every step has the sign of w_other - w_y and the end is a corner."""
    setting = linear(classes=2)
    weight = setting.target.net.weight
    away = (weight[1 - setting.y] - weight[setting.y]).sign().view_as(setting.x)
    x_adv, _ = run(setting, Print(eps=8 / 255), method=method)
    torch.testing.assert_close(x_adv, setting.x + 8 / 255 * away)


def test_the_least_likely_class_is_approached():
    """Its logit rises against each other one, on a linear model with three classes."""
    setting = linear(classes=3)
    before = setting.target.predict(setting.x)
    least = before.argmin(1, keepdim=True)
    x_adv, ledger = run(setting, Print(eps=16 / 255), method="least_likely")
    after = setting.target.predict(x_adv)
    gain = (after.gather(1, least) - after.logsumexp(1, keepdim=True)) - (
        before.gather(1, least) - before.logsumexp(1, keepdim=True)
    )
    assert (gain > 0).all()
    assert set(ledger.queries.tolist()) == {21}


def test_other_budgets_are_refused():
    for budget in (Sticker(area=0.1), Print(norm="l2", eps=0.1)):
        with pytest.raises(NotApplicable):
            run(linear(), budget)
