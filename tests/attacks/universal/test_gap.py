"""Generative perturbations against the closed form on a linear model."""

import math

import pytest
import torch
from torch.nn import functional as F

from casemate.attacks.universal.gap import gap
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Lp, Misclassify
from conformance.models import Linear

W = torch.tensor([3.0, -2.0, 1.0])
EPS = 0.1


def two_classes() -> Classifier:
    """Class 1 where w (x - 1/2) > 0, w = (3, -2, 1): the margin towards class 1 is w (x - 1/2)."""
    return Classifier(Linear(torch.stack([-W, W]) / 2), 2, (3,))


def class_0(n: int = 8) -> torch.Tensor:
    """Inputs near the middle of the box, which no budget here leaves, all of class 0."""
    return 0.5 - 0.01 * W + 0.002 * torch.rand(n, 3, generator=torch.Generator().manual_seed(1))


def learnt(norm, goal, *, steps=150, variant="universal", tick=lambda *_: None, batch=8):
    x = class_0()
    oracle = GradientOracle(two_classes(), len(x))
    rng = torch.Generator().manual_seed(0)
    found = gap(
        oracle, x, goal, Lp(norm=norm, eps=EPS), variant=variant, steps=steps, batch=batch, lr=0.01, rng=rng,
        tick=tick,
    )  # fmt: skip
    return found, oracle


@pytest.mark.parametrize("variant", ["universal", "image"])
@pytest.mark.parametrize(
    "goal", [Misclassify(torch.zeros(8).long()), Become(torch.ones(8).long())], ids=["misclassify", "become"]
)
def test_in_linf_the_output_reaches_eps_times_the_signs_of_the_weights(variant, goal):
    """The loss falls in w delta alone, which is largest at eps * sign(w); tanh comes near it, never there."""
    found, _ = learnt("linf", goal, variant=variant)
    delta = found(class_0()) - class_0()
    torch.testing.assert_close(delta, EPS * W.sign().expand(8, 3), rtol=0, atol=0.01 * EPS)


def test_in_l2_the_output_reaches_eps_times_the_unit_weights():
    """On the sphere w delta is largest at eps * w / |w|, by Cauchy and Schwarz."""
    found, _ = learnt("l2", Misclassify(torch.zeros(8).long()))
    delta = found(class_0()) - class_0()
    cosine = F.cosine_similarity(delta, W.expand(8, 3))
    torch.testing.assert_close(delta.norm(dim=1), torch.full((8,), EPS), rtol=1e-5, atol=0)
    assert cosine.min() > 0.999


def test_the_universal_change_is_one_for_all_inputs():
    found, _ = learnt("linf", Misclassify(torch.zeros(8).long()), steps=10)
    elsewhere = torch.rand(20, 3, generator=torch.Generator().manual_seed(2)) * 0.6 + 0.2
    delta = found(elsewhere) - elsewhere
    torch.testing.assert_close(delta, delta[:1].expand(20, 3), rtol=0, atol=1e-6)


def test_the_fooling_loss_falls_to_what_the_closed_form_says():
    """With margin m towards class 1, `ce` is log(p_1 / p_0) = m, and what is minimised is log(1 + exp(-m)).

    At eps * sign(w) the margin of a row is w (x - 1/2) + eps * |w|_1; no change has a larger one.
    """
    told = []
    learnt("linf", Misclassify(torch.zeros(8).long()), tick=lambda step, total, values: told.append(values))
    margin = (class_0() - 0.5) @ W + EPS * W.abs().sum()
    least = F.softplus(-margin).mean().item()
    losses = [values["loss"] for values in told]
    assert least <= losses[-1] < least + 0.005
    assert losses[-1] < math.log(2), "below it a row is fooled"
    assert F.softplus(-(class_0() - 0.5) @ W).min() > math.log(2), "and without a change none is"


def test_it_spends_steps_times_batch_passes():
    """25 steps of 4 of 8 rows are 100 forwards and backwards."""
    _, oracle = learnt("linf", Misclassify(torch.zeros(8).long()), steps=25, batch=4)
    assert int(oracle.ledger.queries.sum()) == 100
    assert int(oracle.ledger.gradients.sum()) == 100
