"""NI-FGSM, VMI-FGSM and PGN against two steps by hand."""

import torch
from torch import Tensor

from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Lp, Misclassify, NeverReached
from casemate.ops.rng import rows


class Ridge(torch.nn.Module):
    """Logits (0, f) with f = -50 (x0 - 0.52)^2 + x1 - 9, so the slope is (-100 (x0 - 0.52), 1)."""

    def forward(self, x: Tensor) -> Tensor:
        f = -50 * (x[:, 0] - 0.52) ** 2 + x[:, 1] - 9
        return torch.stack([torch.zeros_like(f), f], 1)


def run(name: str, **params):
    oracle = GradientOracle(Classifier(Ridge(), 2, (2,)), 1)
    entry = find(f"evasion.{name}")
    goal = NeverReached(Misclassify(torch.tensor([0])))
    x = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    settings = entry.validate({"steps": 2, "loss": "margin", **params})
    return entry.run(oracle, x, goal, Lp(norm="linf", eps=0.1), rng=rows(0, 1), **settings)


def test_G6_nesterov_turns_where_momentum_alone_goes_on():
    """Steps of 0.05, decay 1.2. The first look ahead is at x: slope (2, 1), g1 = (4/3, 2/3), x = (0.55, 0.25).

    The second is at 0.55 + 0.05 * 1.2 * 4/3 = 0.63: slope (-11, 1), mean 6, so g2 = 1.2 g1 + (-11/6, 1/6),
    whose first value 1.6 - 1.8333 is negative. Momentum alone, at 0.55, has 1.6 - 1.5 > 0.
    """
    torch.testing.assert_close(run("ni_fgsm", decay=1.2), torch.tensor([[0.5, 0.3]], dtype=torch.float64))
    torch.testing.assert_close(run("mi_fgsm", decay=1.2), torch.tensor([[0.6, 0.3]], dtype=torch.float64))


def test_G6_variance_is_that_of_the_step_before():
    """One neighbour at 0.5 + 0.1 r of the first iterate; v = slope there - slope at x = (-10 r, 0).

    g2 = g1 + scaled((-3, 1) + v) with g1 = (4/3, 2/3): its first value is 4/3 + 2 a / (|a| + 1), a = -3 - 10 r.
    """
    r = float(2 * rows(0, 1).uniform(2)[0, 0] - 1)
    a = -3 - 10 * r
    first = 4 / 3 + 2 * a / (abs(a) + 1)
    expected = 0.55 + (0.05 if first > 0 else -0.05)
    found = run("vmi_fgsm", neighbours=1, reach=1.0)
    torch.testing.assert_close(found, torch.tensor([[expected, 0.3]], dtype=torch.float64))


def test_G6_flat_maxima_mix_the_slope_here_with_the_one_downhill():
    """No neighbourhood, balance 1: the first slope is that at 0.5 - 0.05 * 4/3 = 0.4333, (8.67, 1), upwards.

    x = (0.55, 0.25); there the slope (-3, 1) has mean 2, downhill is 0.55 + 0.05 * 1.5 = 0.625, slope (-10.5, 1).
    g1 = (8.667, 1) / 4.833 = (1.793, 0.207); g2 = g1 + (-10.5, 1) / 5.75 = (1.793 - 1.826, ...): back to 0.5.
    """
    found = run("pgn", samples=1, reach=0.0, balance=1.0)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3]], dtype=torch.float64))
