"""Pitfalls N1 to N6: bounds, normalisation, radii, rounding."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from casemate.assess.families.evasion import judge
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.core.target import Classifier, Ledger
from casemate.core.threat import Lp, Misclassify
from casemate.ops import norms
from casemate.ops.rng import rows
from conformance import models
from conformance.models import Setting
from conformance.subject import Subject, distance, in_box

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
NORMS = ("linf", "l2", "l1", "l0")


def test_N1_one_model_written_three_ways_gets_the_same_adversarials():
    """Normalisation declared, inside the net, or folded into the weights: W (x - m) / s = (W / s) x - W m / s."""
    setting = models.linear(4, (2, 3, 3))
    mean, std = (0.4, 0.6), (0.25, 0.5)
    weight = setting.target.net.weight.detach()
    m = torch.tensor(mean, dtype=weight.dtype).repeat_interleave(9)
    s = torch.tensor(std, dtype=weight.dtype).repeat_interleave(9)
    folded = models.Linear(weight / s, (weight * ((0.5 - m) / s - 0.5)).sum(1))
    inside = nn.Sequential(_Normalise(mean, std), setting.target.net)
    y = None
    found = []
    for target in (
        Classifier(setting.target.net, 4, (2, 3, 3), mean=mean, std=std),
        Classifier(inside, 4, (2, 3, 3)),
        Classifier(folded, 4, (2, 3, 3)),
    ):
        y = target.predict(setting.x).argmax(1) if y is None else y
        assert torch.equal(target.predict(setting.x).argmax(1), y)
        subject = Subject(find("evasion.pgd"), "l2", torch.float64)
        found.append(subject.attack(Setting(target, setting.x, y)).x_adv)
    declared, inner, raw = found
    assert torch.equal(declared, inner)
    torch.testing.assert_close(declared, raw, rtol=0, atol=1e-9)


class _Normalise(nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, dtype=x.dtype).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def test_N4_a_radius_in_levels_of_255_is_refused_with_a_hint():
    with pytest.raises(UsageError, match="did you mean 8/255"):
        Lp(norm="linf", eps=8)
    with pytest.raises(UsageError, match="at least 0"):
        Lp(norm="l2", eps=-1)
    with pytest.raises((UsageError, ValueError)):
        Lp(norm="l2", eps=math.nan)


def draw(norm: str, dtype: torch.dtype, seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Inputs with values at the edges of the box, and candidates far outside it."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.4 * torch.rand(5, *shape, generator=generator) - 0.2).clamp(0, 1).to(dtype)
    far = 3 * torch.randn(5, *shape, generator=generator).to(dtype)
    return x, x + far


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1,), (9,), (2, 5), (1, 4, 4), (3, 3, 5), (1, 28, 28)]),
    eps=st.sampled_from([0.0, 1 / 255, 8 / 255, 0.3, 1.0, 2.0, 5.0]),
)
def test_N5_projections_stay_in_ball_and_box_in_every_precision(norm, dtype, seed, shape, eps):
    """Sizes are taken in float64; |delta| <= eps (1 + 1e-6) plus what rounding x + delta can add."""
    x, candidate = draw(norm, dtype, seed, shape)
    projected = norms.project(candidate, x, norm, eps)
    assert projected.dtype == dtype
    assert in_box(projected).all()
    # subtracting bfloat16 numbers is exact in float64
    sizes = distance(projected.double() - x.double(), norm)
    limit = eps if norm == "l0" else eps * (1 + 1e-6) + 2 * norms.rounding(x, norm)
    assert (sizes <= limit).all()
    again = norms.project(projected, x, norm, eps)
    torch.testing.assert_close(again, projected, rtol=0, atol=8 * torch.finfo(dtype).eps)


@settings(max_examples=40, deadline=None)
@given(
    norm=st.sampled_from(NORMS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
    eps=st.sampled_from([0.0, 1 / 255, 0.3, 1.0, 3.0]),
)
def test_N5_random_starts_stay_in_the_ball_in_every_precision(norm, dtype, seed, eps):
    x, _ = draw(norm, dtype, seed, (2, 4, 4))
    delta = norms.random_in_ball(x, norm, eps, rows(seed, 5))
    assert delta.dtype == dtype
    slack = 0 if norm == "l0" else 4 * norms.rounding(x, norm) * max(1.0, eps)
    assert (distance(delta.double(), norm) <= eps * (1 + 1e-6) + slack).all()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.01, 6.0))
@example(seed=329, eps=0.9375)  # a bare Newton search for the threshold goes back and forth here
def test_N5_the_nearest_point_of_the_l1_ball_in_the_box_is_the_nearest(seed, eps):
    """No point that a random search in ball and box meets is nearer to the candidate.

    The set is convex, so the projection p of c is the point with (c - p) . (q - p) <= 0 for all q
    of the set: a condition that needs no other algorithm to check.
    """
    x, candidate = draw("l1", torch.float64, seed, (6,))
    p = norms.project(candidate, x, "l1", eps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        direction = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        q = x + eps * torch.rand(5, 1, generator=generator) * direction / direction.abs().sum(1, keepdim=True)
        q = q.clamp(0, 1)
        assert ((candidate - p) * (q - p)).sum(1).max() <= 1e-9


def test_N5_the_same_data_in_float32_stay_float32():
    """A radius that is a float64 scalar of numpy does not lift the result to float64."""
    numpy = pytest.importorskip("numpy")
    setting = models.linear(dtype=torch.float32)
    for name in ("fgsm", "pgd", "apgd"):
        subject = Subject(find(f"evasion.{name}"), "linf", torch.float32)
        assert subject.attack(setting, eps=numpy.float64(0.1)).x_adv.dtype == torch.float32


def test_N5_an_attack_that_leaves_its_ball_is_reported_and_wins_nothing():
    """An attack told to stay within 0.1 that moves by 0.2; one told to look anywhere may."""
    setting = models.linear(dtype=torch.float32)
    x_adv = (setting.x + 0.2).clamp(0, 1)
    budget = Lp(norm="linf", eps=0.1)
    goal, ledger = Misclassify(setting.y), Ledger.empty(8)
    found = judge(setting.target, setting.x, x_adv, goal, budget, ledger)
    assert found.stray.all()
    assert not found.fooled.any()
    free = judge(setting.target, setting.x, x_adv, goal, budget, ledger, limit=math.inf)
    assert not free.stray.any()
    assert not free.fooled.any()
