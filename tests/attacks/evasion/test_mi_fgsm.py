"""MI-FGSM against two steps by hand and its special cases."""

import pytest
import torch
from torch import Tensor

from casemate.attacks.evasion.mi_fgsm import mi_fgsm
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Goal, Lp, Misclassify, NeverReached
from casemate.ops.rng import rows
from conformance.models import linear, mlp, never_fooled

CLASS_0 = Misclassify(torch.tensor([0]))


class Ridge(torch.nn.Module):
    """Logits (0, scale * f) with f = -50 (x0 - 0.52)^2 + x1 - 9: class 0 in the whole box."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        f = self.scale * (-50 * (x[:, 0] - 0.52) ** 2 + x[:, 1] - 9)
        return torch.stack([torch.zeros_like(f), f], 1)


def run(target: Classifier, x: Tensor, goal: Goal, norm: str, eps: float, **params):
    oracle = GradientOracle(target, len(x))
    return mi_fgsm(oracle, x, goal, Lp(norm=norm, eps=eps), rng=rows(0, len(x)), **params), oracle.ledger


def ridge(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Classifier, Tensor]:
    return Classifier(Ridge(scale), 2, (2,)), torch.tensor([[0.5, 0.2]], dtype=dtype)


@pytest.mark.parametrize(
    ("decay", "expected"), [(0.0, [0.50, 0.30]), (1.0, [0.50, 0.30]), (1.2, [0.60, 0.30])]
)
def test_G6_two_linf_steps_by_hand(decay, expected):
    """eps 0.1, steps of 0.05 from (0.5, 0.2); the slope of f is (-100 (x0 - 0.52), 1).

    Slope (2, 1), mean 3/2, so g1 = (4/3, 2/3) and x = (0.55, 0.25). Slope (-3, 1), mean 2, so
    g2 = decay * g1 + (-3/2, 1/2): its first value is 4/3 decay - 3/2, negative for decay 1 (-1/6) and
    positive for decay 1.2 (1/10); its second is positive.
    """
    target, x = ridge()
    x_adv, _ = run(target, x, CLASS_0, "linf", 0.1, steps=2, decay=decay, loss="margin")
    torch.testing.assert_close(x_adv, torch.tensor([expected], dtype=torch.float64))


def test_G6_two_l2_steps_by_hand():
    """Same slope; steps of 0.05 along g / |g|.

    g1 = (4/3, 2/3), |g1| = sqrt(20)/3, x = (0.5 + 0.1/sqrt(5), 0.2 + 0.05/sqrt(5)) = (0.544721, 0.222361).
    Slope (-2.472136, 1), mean 1.736068; g2 = (4/3 - 1.423986, 2/3 + 0.576015) = (-0.090653, 1.242682),
    |g2| = 1.245984; x = (0.544721 - 0.003638, 0.222361 + 0.049867).
    """
    target, x = ridge()
    x_adv, _ = run(target, x, CLASS_0, "l2", 0.1, steps=2, decay=1.0, loss="margin")
    expected = torch.tensor([[0.541083, 0.272228]], dtype=torch.float64)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_G2_steps_do_not_depend_on_the_length_of_the_gradients(norm, scale):
    """In float32; an absolute guard such as 1e-12 in the mean would freeze the attack at 1e-30."""
    found = [
        run(*ridge(s, torch.float32), CLASS_0, norm, 0.1, steps=5, loss="margin")[0] for s in (1.0, scale)
    ]
    torch.testing.assert_close(*found)
    assert (found[0] - 0.5).abs().max() > 0.05


def test_the_step_of_eps_over_steps_just_reaches_the_sphere():
    """On a linear model all steps agree: after all of them every value has moved by eps, not farther."""
    setting = linear(classes=2)
    goal = NeverReached(Misclassify(setting.y))
    x_adv, _ = run(setting.target, setting.x, goal, "linf", 0.2, steps=7)
    torch.testing.assert_close((x_adv - setting.x).abs(), torch.full_like(setting.x, 0.2))


def test_without_momentum_it_is_the_iterative_fgsm():
    """x <- clip(x + eps / steps * sign(grad)), written out."""
    setting = mlp()
    x_adv, _ = run(
        setting.target, setting.x, NeverReached(Misclassify(setting.y)), "linf", 0.1, steps=4, decay=0.0
    )
    expected = setting.x
    for _ in range(4):
        z = expected.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(setting.target.net(z), setting.y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, z)
        moved = expected + 0.025 * grad.sign()
        expected = torch.minimum(torch.maximum(moved, setting.x - 0.1), setting.x + 0.1).clamp(0, 1)
    torch.testing.assert_close(x_adv, expected)


def test_G6_momentum_belongs_to_its_row():
    """Rows leave at different steps; the others' momentum stays theirs: alone they end at the same point."""
    setting = mlp()
    goal = Misclassify(setting.y)
    together, ledger = run(setting.target, setting.x, goal, "linf", 0.2, steps=8)
    assert len(set(ledger.queries.tolist())) > 1, "no row left before another"
    for i in range(len(setting.x)):
        alone, _ = run(setting.target, setting.x[i : i + 1], goal[i : i + 1], "linf", 0.2, steps=8)
        torch.testing.assert_close(alone, together[i : i + 1])


def test_rows_leave_when_they_reach_the_goal_unless_it_never_ends():
    setting = mlp()
    goal = Misclassify(setting.y)
    _, early = run(setting.target, setting.x, goal, "linf", 0.3, steps=10)
    _, late = run(setting.target, setting.x, NeverReached(goal), "linf", 0.3, steps=10)
    assert early.queries.min() < 10
    assert late.queries.tolist() == late.gradients.tolist() == [10] * 6


def test_G7_a_row_that_stands_costs_a_pass_each_way_per_step():
    setting = never_fooled()
    _, ledger = run(setting.target, setting.x, Misclassify(setting.y), "l2", 0.5, steps=6)
    assert ledger.queries.tolist() == ledger.gradients.tolist() == [6] * 4
