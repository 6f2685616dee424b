"""Pitfalls G1 to G6: losses and their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.ops import losses
from casemate.ops.gradients import value_and_grad
from casemate.ops.norms import steepest
from casemate.ops.rng import rows

KINDS = ("ce", "margin", "dlr")


def goals(classes: int, n: int) -> list[Goal]:
    labels = torch.arange(n) % classes
    return [Misclassify(labels), Become((labels + 1) % classes)]


def logits_of(seed: int, classes: int, n: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(n, classes, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.sampled_from([2, 3, 4, 5, 10, 100]),
    kind=st.sampled_from(KINDS),
    shift=st.sampled_from([-1e4, -50.0, 50.0, 1e4]),
)
def test_G1_no_loss_changes_when_a_constant_is_added_to_the_logits(seed, classes, kind, shift):
    logits = logits_of(seed, classes)
    for goal in goals(classes, len(logits)):
        value, grad = value_and_grad(lambda z, goal=goal: goal.loss(z, kind), logits)
        moved, moved_grad = value_and_grad(lambda z, goal=goal: goal.loss(z, kind), logits + shift)
        torch.testing.assert_close(moved, value, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(moved_grad, grad, rtol=1e-8, atol=1e-8)
        assert torch.equal(goal.reached(logits), goal.reached(logits + shift))


def test_G1_the_margin_of_negative_logits_is_not_zero():
    """Other libraries take max((1 - onehot) * z) - z_y: with z = (-9, -8) and y = 1 that is 0 + 8, not -1."""
    logits, y = torch.tensor([[-9.0, -8.0]]), torch.tensor([1])
    assert losses.margin(logits, y).item() == -1.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.sampled_from([2, 3, 4, 10, 100]),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([2.0**-20, 2.0**20]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_G2_no_loss_loses_its_slope_when_logits_are_scaled(seed, classes, kind, scale, dtype):
    """Every row that has not reached its goal has a direction to go, however sure the model is."""
    logits = logits_of(seed, classes).to(dtype)
    for goal in goals(classes, len(logits)):
        stands = ~goal.reached(logits)
        _, grad = value_and_grad(lambda z, goal=goal: goal.loss(z * scale, kind), logits)
        assert grad.isfinite().all()
        assert grad[stands].ne(0).any(1).all()


def test_G2_cross_entropy_keeps_its_direction_where_it_saturates_elsewhere():
    """The log-odds have the direction of cross-entropy where that has one, and one where it has none."""
    y = torch.tensor([0])
    for top, saturated in ((5.0, False), (200.0, True)):
        logits = torch.tensor([[top, 0.0, -1.0]])
        _, entropy = value_and_grad(
            lambda z: torch.nn.functional.cross_entropy(z, y, reduction="none"), logits
        )
        _, odds = value_and_grad(lambda z: losses.error_odds(z, y), logits)
        assert bool(entropy.eq(0).all()) is saturated
        assert odds.ne(0).all()
        if not saturated:
            torch.testing.assert_close(steepest(odds, "l2"), steepest(entropy, "l2"))


@pytest.mark.parametrize("scale", [1e-30, 1e-17, 1.0, 1e17, 1e30])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_G2_a_step_does_not_depend_on_the_length_of_the_gradient(norm, scale):
    """steepest(c g) = steepest(g): no absolute guard in a denominator."""
    grad = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(steepest(grad * scale, norm), steepest(grad, norm))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10, 100])
def test_G4_every_loss_has_a_slope_for_every_number_of_classes_and_every_rank(kind, classes):
    """Whatever place the own or the target class has among the logits.

    A ratio of differences has none where numerator and denominator are the same difference: with
    two classes always, with three where the target class is last.
    """
    logits = torch.arange(classes, dtype=torch.float64).flip(0).repeat(classes, 1) ** 1.1
    ranks = torch.arange(classes)
    for goal in (Misclassify(ranks), Become(ranks)):
        value, grad = value_and_grad(lambda z, goal=goal: goal.loss(z, kind), logits)
        assert value.isfinite().all()
        stands = ~goal.reached(logits)
        assert grad[stands].ne(0).any(1).all()


def test_G5_the_loss_of_a_target_rises_with_the_target_class():
    """Targeted losses go up when the target's logit does, untargeted ones when the own logit falls."""
    logits = logits_of(0, 5)
    labels = torch.arange(len(logits)) % 5
    for kind in KINDS:
        for goal, sign in ((Misclassify(labels), -1), (Become(labels), 1)):
            _, grad = value_and_grad(lambda z, goal=goal, kind=kind: goal.loss(z, kind), logits)
            own = grad.gather(1, labels[:, None]).squeeze(1) * sign
            assert (own[~goal.reached(logits)] > 0).all()


class Bent(torch.nn.Module):
    """Logits (0, f) with f(x) = -20 + sum of c x + q x^2 / 2: class 0 everywhere in the box."""

    c = torch.tensor([1.0, -0.2, 0.5, -2.0], dtype=torch.float64)
    q = torch.tensor([-4.0, 2.0, 0.5, 1.0], dtype=torch.float64)

    def forward(self, x):
        f = -20 + (self.c * x + self.q * x * x / 2).sum(1)
        return torch.stack([torch.zeros_like(f), f], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_G6_two_steps_with_momentum_are_those_of_the_formula(norm, decay):
    """g1 = c + q x, m1 = g1 / mean|g1|, x1 = x + a m1 / |m1|; m2 = decay m1 + g2 / mean|g2|, x2 = x1 + a m2 / |m2|.

    In linf a step is a sign(m). In the first value the gradient turns between the two steps, from
    1 - 4 * 0.2 > 0 to 1 - 4 * 0.3 < 0, so that with decay 1 the momentum's sign is not the gradient's.
    """
    x = torch.tensor([[0.2, 0.5, 0.5, 0.6]], dtype=torch.float64)
    alpha = 0.1
    expected, momentum = x[0], torch.zeros(4, dtype=torch.float64)
    for _ in range(2):
        g = Bent.c + Bent.q * expected
        momentum = decay * momentum + g / g.abs().mean()
        step = momentum.sign() if norm == "linf" else momentum / momentum.square().sum().sqrt()
        expected = expected + alpha * step
    found = find("evasion.mi_fgsm").run(
        GradientOracle(Classifier(Bent(), 2, (4,)), 1), x, Misclassify(torch.tensor([0])), Lp(norm=norm, eps=0.5),
        steps=2, step_size=alpha, decay=decay, loss="margin", rng=rows(0, 1),
    )  # fmt: skip
    torch.testing.assert_close(found[0], expected)
