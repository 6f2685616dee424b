"""DeepFool against its step on linear models, worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.deepfool import deepfool
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier, GradientOracle, Ledger
from casemate.core.threat import Become, Lp, Misclassify
from casemate.ops.rng import rows
from conformance.models import altered, linear, never_fooled

# logits W x + b; at x = (0.5, 0.5) they are 1.6, 0.6 and 1.2
WEIGHT = [[2.0, 1.0], [-1.0, 2.0], [1.0, 1.0]]
BIAS = [0.1, 0.1, 0.2]
X = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
NEAREST = Lp(norm="l2", eps=float("inf"))


def affine(weight: list[list[float]] = WEIGHT, bias: list[float] = BIAS) -> Classifier:
    net = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight, dtype=torch.float64))
        net.bias.copy_(torch.tensor(bias, dtype=torch.float64))
    return Classifier(net, len(weight), (len(weight[0]),))


def run(target: Classifier, x: Tensor, budget: Lp = NEAREST, **params) -> tuple[Tensor, Ledger]:
    oracle = GradientOracle(target, len(x))
    y = target.predict(x).argmax(1)
    return deepfool(oracle, x, Misclassify(y), budget, rng=rows(0, len(x)), **params), oracle.ledger


def test_one_l2_step_by_hand():
    """Gaps to classes 1 and 2 are -1 and -0.4, slopes (-3, 1) and (-1, 0): 1/sqrt(10) = 0.316 against 0.4.

    Class 1 is nearer; the step is 1/10 of (-3, 1), carried 1.02 times as far.
    """
    x_adv, ledger = run(affine(), X)
    torch.testing.assert_close(x_adv, X + 1.02 * torch.tensor([[-0.3, 0.1]], dtype=torch.float64))
    assert (ledger.queries.item(), ledger.gradients.item()) == (2, 4), "two passes, each through two rivals"


def test_one_linf_step_by_hand():
    """Slopes of l1 size 4 and 1: distances 1/4 and 0.4. Class 1 again, a quarter along each sign."""
    x_adv, _ = run(affine(), X, Lp(norm="linf", eps=1))
    torch.testing.assert_close(x_adv, X + 1.02 * torch.tensor([[-0.25, 0.25]], dtype=torch.float64))


def test_rivals_are_the_likeliest_classes():
    """With one rival it is class 2, whose logit is second, though class 1's boundary is nearer."""
    x_adv, ledger = run(affine(), X, rivals=1)
    torch.testing.assert_close(x_adv, X + 1.02 * torch.tensor([[-0.4, 0.0]], dtype=torch.float64))
    assert ledger.gradients.item() == 2


def test_N6_the_step_spends_nothing_on_values_at_an_edge():
    """Logits 0 and x0 + x1 - 1.4 at (1, 0.2): x0 cannot rise, so x1 takes the whole gap of 0.2."""
    x = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    x_adv, _ = run(affine([[0.0, 0.0], [1.0, 1.0]], [0.0, -1.4]), x)
    torch.testing.assert_close(x_adv, torch.tensor([[1.0, 0.2 + 1.02 * 0.2]], dtype=torch.float64))


def test_a_step_that_ends_on_the_boundary_is_carried_over_it():
    """Without overshoot the first step of 0.1 sqrt(10) ends where both classes tie, up to rounding.

    The next adds a thousandth of the way.
    """
    x_adv, ledger = run(affine(), X, overshoot=0.0)
    assert affine().predict(x_adv).argmax(1).item() == 1
    torch.testing.assert_close(x_adv, X + 1.001 * torch.tensor([[-0.3, 0.1]], dtype=torch.float64))
    assert ledger.queries.item() == 3


def test_a_row_leaves_with_the_first_example_it_meets():
    """The far row, whose boundary bends away, needs more steps; the near one is not asked again."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(x), x.sqrt() - 0.8], 1)

    x = torch.tensor([[0.6], [0.01]], dtype=torch.float64)
    x_adv, ledger = run(Classifier(Bent(), 2, (1,)), x)
    assert (x_adv > 0.64).all()
    assert ledger.queries[0] < ledger.queries[1]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_G1_G2_neither_shift_nor_scale_of_the_logits_matters(norm):
    setting = linear()
    plain, _ = run(setting.target, setting.x, Lp(norm=norm, eps="inf"))
    for alter in (lambda out: out - 50, lambda out: 2.0**20 * out, lambda out: 2.0**-20 * out):
        changed, _ = run(altered(setting, alter).target, setting.x, Lp(norm=norm, eps="inf"))
        torch.testing.assert_close(changed, plain)


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
def test_G4_G7_a_row_that_stands_costs_its_steps_times_its_rivals(classes):
    setting = never_fooled(classes=classes)
    _, ledger = run(setting.target, setting.x, steps=4)
    assert ledger.queries.eq(5).all()
    assert ledger.gradients.eq(4 * min(9, classes - 1)).all()


def test_G5_a_target_class_is_refused():
    oracle = GradientOracle(affine(), 1)
    with pytest.raises(NotApplicable, match="no target class"):
        deepfool(oracle, X, Become(torch.tensor([1])), NEAREST, rng=rows(0, 1))


def test_S3_a_row_that_is_already_wrong_stays_as_it_is():
    oracle = GradientOracle(affine(), 1)
    x_adv = deepfool(oracle, X, Misclassify(torch.tensor([1])), NEAREST, rng=rows(0, 1))
    assert torch.equal(x_adv, X)


def test_an_example_outside_the_ball_does_not_count():
    """The nearest is 0.3226 away."""
    assert torch.equal(run(affine(), X, Lp(norm="l2", eps=0.32))[0], X)
    assert not torch.equal(run(affine(), X, Lp(norm="l2", eps=0.33))[0], X)
