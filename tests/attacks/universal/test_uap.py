"""UAP by gradients against the closed form on a linear model."""

import torch

from casemate.attacks.universal.uap import uap
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Lp, Misclassify
from conformance.models import Linear


def two_classes() -> Classifier:
    """Class 1 where w (x - 1/2) > 0, w = (3, -2, 1)."""
    w = torch.tensor([3.0, -2.0, 1.0])
    return Classifier(Linear(torch.stack([-w, w]) / 2), 2, (3,))


def learnt(norm, goal, eps=0.1, **settings):
    x = torch.full((8, 3), 0.5) - 0.01 * torch.tensor([3.0, -2.0, 1.0])
    oracle = GradientOracle(two_classes(), len(x))
    rng = torch.Generator().manual_seed(0)
    return uap(oracle, x, goal, Lp(norm=norm, eps=eps), clip=1e6, rng=rng, **settings), oracle


def test_in_linf_it_is_eps_times_the_signs_of_the_weights():
    """All rows are of class 0, so the best perturbation is eps * sign(w), for every input the same."""
    found, _ = learnt("linf", Misclassify(torch.zeros(8, dtype=torch.int64)))
    half = torch.full((1, 3), 0.5)
    torch.testing.assert_close(found(half) - half, 0.1 * torch.tensor([[1.0, -1.0, 1.0]]))


def test_in_l2_it_is_eps_times_the_unit_weights():
    found, _ = learnt("l2", Become(torch.ones(8, dtype=torch.int64)))
    w = torch.tensor([[3.0, -2.0, 1.0]])
    half = torch.full((1, 3), 0.5)
    torch.testing.assert_close(found(half) - half, 0.1 * w / w.norm(), rtol=1e-4, atol=1e-5)


def test_it_spends_steps_times_batch_passes():
    """25 steps of 4 of 8 rows are 100 forwards and backwards."""
    _, oracle = learnt("linf", Misclassify(torch.zeros(8, dtype=torch.int64)), steps=25, batch=4)
    assert int(oracle.ledger.queries.sum()) == 100
    assert int(oracle.ledger.gradients.sum()) == 100
