import torch
from torch import nn

from casemate.attacks.evasion.bpda import bpda
from casemate.attacks.evasion.pgd import pgd
from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Lp, Misclassify
from casemate.ops.rng import rows


class Levels(nn.Module):
    """Rounds to eleven levels."""

    def forward(self, x):
        return (10 * x).round() / 10


class Line(nn.Module):
    """Logits (-s, s) for s = w (x - 1/2), w = (3, -1)."""

    def forward(self, x):
        s = (x - 0.5) @ torch.tensor([3.0, -1.0])
        return torch.stack([-s, s], 1)


def quantised():
    target = Classifier(nn.Sequential(Levels(), Line()), 2, (2,))
    x = torch.tensor([[0.44, 0.5], [0.4, 0.4], [0.62, 0.56]])
    return target, x, target.predict(x).argmax(1)


def test_it_is_found_by_its_names():
    assert {find(name).id for name in ("BPDA", "backward pass differentiable approximation")} == {
        "evasion.bpda"
    }


def test_it_walks_through_the_rounding_to_the_best_corner():
    """s moves by eps (3 + 1) at most, here 0.8, more than any of s = -0.3, -0.2, 0.2 after rounding.

    The gradient of the identity is w, so every step of both coordinates goes to that corner. PGD has
    no gradient and stays at its start.
    """
    target, x, y = quantised()
    goal, budget = Misclassify(y), Lp(norm="linf", eps=0.2)
    found = bpda(GradientOracle(target, 3), x, goal, budget, steps=10, rng=rows(0, 3))
    assert (target.predict(found).argmax(1) != y).all()
    start = pgd(GradientOracle(target, 3), x, goal, budget, steps=1, loss="margin", rng=rows(0, 3))
    later = pgd(GradientOracle(target, 3), x, goal, budget, steps=30, loss="margin", rng=rows(0, 3))
    assert torch.equal(start, later)


def test_the_search_for_layers_is_counted_as_one_question():
    target, x, y = quantised()
    oracle = GradientOracle(target, 3)
    bpda(oracle, x, Misclassify(y), Lp(norm="linf", eps=0.001), steps=7, rng=rows(0, 3))
    assert oracle.ledger.queries.tolist() == [8, 8, 8]
    assert oracle.ledger.gradients.tolist() == [7, 7, 7]
