"""DeepFool-UAP against the closed form on a linear model."""

import torch

from casemate.attacks.universal.deepfool_uap import deepfool_uap
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Lp, Misclassify
from conformance.models import Linear

W = torch.tensor([3.0, -2.0, 1.0])


def test_one_row_gives_the_step_onto_its_boundary():
    """At margin m = w (1/2 - x) the least step is m w / |w|^2, carried over by 2%."""
    target = Classifier(Linear(torch.stack([-W, W]) / 2), 2, (3,))
    x = (0.5 - 0.02 * W)[None]
    found = deepfool_uap(
        GradientOracle(target, 1), x, Misclassify(torch.zeros(1, dtype=torch.int64)), Lp(norm="l2", eps=1.0),
        rng=torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.testing.assert_close(found(x) - x, 1.02 * 0.02 * W[None], rtol=1e-3, atol=1e-5)


def test_a_row_that_no_step_carries_over_is_skipped():
    """The bias of class 0 is beyond all that the box allows."""
    net = Linear(torch.stack([-W, W]) / 2, torch.tensor([1000.0, 0.0]))
    x = torch.full((3, 3), 0.5)
    found = deepfool_uap(
        GradientOracle(Classifier(net, 2, (3,)), 3), x, Misclassify(torch.zeros(3, dtype=torch.int64)),
        Lp(norm="linf", eps=0.3), rng=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert torch.equal(found(x), x)
