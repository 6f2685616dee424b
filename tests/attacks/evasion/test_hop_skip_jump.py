"""HopSkipJump against closed forms on linear models."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.attacks.evasion.hop_skip_jump import BEYOND, _normal, _to_boundary, hop_skip_jump
from casemate.core.target import Classifier, LabelOracle
from casemate.core.threat import Lp, Misclassify
from casemate.ops.norms import Norm, size
from casemate.ops.rng import rows

SHAPE = (1, 4, 4)
INFINITE = float("inf")
BOTH = pytest.mark.parametrize("norm", ["linf", "l2"])
LABELS = torch.zeros(6, dtype=torch.int64)


def two_classes(margin: float = 0.5) -> tuple[Classifier, Tensor]:
    """Class 1 where v (x - 1/2) > margin, and v."""
    v = torch.randn(16, generator=torch.Generator().manual_seed(1))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(16), v]))
        net[1].bias.copy_(torch.tensor([0.0, -v.sum().item() / 2 - margin]))
    return Classifier(net, 2, SHAPE), v


def inputs(n: int = 6) -> Tensor:
    return 0.45 + 0.1 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def gap(target: Classifier, x: Tensor) -> Tensor:
    """How far class 1 is ahead of class 0, (N,)."""
    logits = target.predict(x)
    return logits[:, 1] - logits[:, 0]


def attack(
    target: Classifier,
    x: Tensor,
    norm: Norm,
    eps: float = INFINITE,
    queries: int | None = None,
    **settings: Any,
) -> tuple[Tensor, list[int]]:
    oracle = LabelOracle(target, len(x))
    goal = Misclassify(settings.pop("y", LABELS[: len(x)]))
    streams = settings.pop("rng", None) or rows(0, len(x))
    x_adv = hop_skip_jump(oracle, x, goal, Lp(norm=norm, eps=eps, queries=queries), rng=streams, **settings)
    return x_adv, oracle.ledger.queries.tolist()


@BOTH
def test_it_finds_the_nearest_point_of_a_linear_model(norm: Norm) -> None:
    """The boundary v (x - 1/2) = margin is |gap| / |v|_2 away in l2, and |gap| / |v|_1 in linf."""
    target, v = two_classes()
    x = inputs()
    nearest = gap(target, x).abs() / (v.norm() if norm == "l2" else v.abs().sum())
    x_adv, _ = attack(target, x, norm, steps=25)
    assert (gap(target, x_adv) > 0).all()
    found = size(x_adv - x, norm)
    assert (found >= nearest * (1 - 1e-5)).all(), "nearer than the closed form: the test is wrong"
    assert (found <= nearest * 1.1).all(), (found / nearest).tolist()


@BOTH
def test_the_normal_of_a_plane_is_estimated(norm: Norm) -> None:
    """At a point of the plane the mean of n probes, weighted by success, points along v.

    Of n = 4000 probes in d = 16 dimensions the component along v is sqrt(2 / (pi d)) each, the other
    15 are noise of 1 / sqrt(n d) each: cos = 1 / sqrt(1 + 15 pi / (2 n)) = 0.997.
    """
    target, v = two_classes(0.0)
    point = torch.full((2, *SHAPE), 0.5)
    oracle, goal = LabelOracle(target, 2), Misclassify(LABELS[:2])
    count = torch.tensor([4000, 2000])
    normal = _normal(
        oracle, point, goal, torch.tensor([0.1, 0.01]), count, 4000, Lp(norm=norm, eps=1), rows(0, 2)
    )
    cosine = torch.cosine_similarity(normal.flatten(1), v[None])
    assert (cosine > 0.985).all()
    assert oracle.ledger.queries.tolist() == count.tolist()


@BOTH
def test_bisection_ends_on_the_near_side_of_the_boundary(norm: Norm) -> None:
    """On the way from a margin -a to +b the plane is crossed at the share a / (a + b) in l2.

    In linf the path clips the point to x +- r; its gap rises with r, so just below the r found it
    must be negative.
    """
    target, _ = two_classes()
    x = inputs(3)
    point = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(5))
    point = point[gap(target, point) > 0][:3]
    oracle, goal = LabelOracle(target, 3), Misclassify(LABELS[:3])
    result = _to_boundary(oracle, x, point, goal, Lp(norm=norm, eps=INFINITE))
    assert (gap(target, result) > 0).all()
    if norm == "l2":
        share = gap(target, x).abs() / (gap(target, x).abs() + gap(target, point))
        reached = size(result - x, "l2") / size(point - x, "l2")
        assert ((reached >= share * (1 - 1e-5)) & (reached <= share + 16**-1.5 + 1e-5)).all()
    else:
        far = size(point - x, "linf")
        radius = (size(result - x, "linf") - 2 * far / 16**2).view(-1, 1, 1, 1)
        assert (gap(target, point.minimum(x + radius).maximum(x - radius)) < 0).all()


@BOTH
def test_a_found_point_lies_a_little_beyond_the_boundary(norm: Norm) -> None:
    """So that another order of summation does not take it back: a thousandth of the distance.

    Along the way from x the gap rises linearly, so there it is at least BEYOND / (1 + BEYOND) of
    the gap that was crossed.
    """
    target, _ = two_classes()
    x = inputs()
    x_adv, _ = attack(target, x, norm, steps=4)
    assert (gap(target, x_adv) >= 0.99 * BEYOND / (1 + BEYOND) * gap(target, x).abs()).all()


@BOTH
def test_queries_per_row_never_exceed_the_limit(norm: Norm) -> None:
    target, _ = two_classes()
    for limit in (1, 2, 3, 10, 33, 100, 333):
        x_adv, spent = attack(target, inputs(), norm, queries=limit)
        assert max(spent) <= limit
        assert ((x_adv >= 0) & (x_adv <= 1)).all()


@BOTH
def test_more_queries_bring_the_example_nearer(norm: Norm) -> None:
    target, _ = two_classes()
    x = inputs()
    mean = []
    for limit in (60, 200, 600, 1800):
        x_adv, _ = attack(target, x, norm, queries=limit)
        assert (gap(target, x_adv) > 0).all()
        mean.append(size(x_adv - x, norm).mean().item())
    assert mean == sorted(mean, reverse=True)
    assert mean[-1] < 0.8 * mean[0]


@BOTH
def test_s6_more_steps_never_lose_ground(norm: Norm) -> None:
    """The same streams give the same path, and the best point of it is returned."""
    target, _ = two_classes()
    x = inputs()
    before = torch.full((6,), INFINITE)
    for steps in (1, 2, 4, 8):
        after = size(attack(target, x, norm, steps=steps)[0] - x, norm)
        assert (after <= before * (1 + 1.01 * BEYOND)).all()
        before = after


@BOTH
def test_a_finite_ball_ends_the_walk_of_rows_inside(norm: Norm) -> None:
    """Rows in the ball stop asking; rows for which it holds no example come back as they are."""
    target, v = two_classes()
    x = inputs()
    nearest = gap(target, x).abs() / (v.norm() if norm == "l2" else v.abs().sum())
    eps = 1.5 * nearest.max().item()
    x_adv, spent = attack(target, x, norm, eps=eps, queries=4000)
    assert (gap(target, x_adv) > 0).all()
    assert (size(x_adv - x, norm) <= eps * (1 + 1e-6)).all()
    assert max(spent) < 4000
    x_adv, spent = attack(target, x, norm, eps=0.9 * nearest.min().item(), queries=500)
    assert torch.equal(x_adv, x)
    assert min(spent) > 400, "there is no reason to stop early"


@BOTH
def test_s3_rows_without_a_start_come_back(norm: Norm) -> None:
    """A model that never errs costs the question about x and those about noise, and raises nothing."""
    target, _ = two_classes(margin=1e3)
    x = inputs()
    x_adv, spent = attack(target, x, norm, starts=7)
    assert torch.equal(x_adv, x)
    assert spent == [8] * 6


@BOTH
def test_s3_wrong_rows_and_hopeless_rows_do_not_disturb_the_others(norm: Norm) -> None:
    """A row that is wrong already comes back after one query; the rest are as if it were not there."""
    target, _ = two_classes()
    x = inputs()
    y = torch.tensor([0, 1, 0, 0, 1, 0])
    x_adv, spent = attack(target, x, norm, y=y, queries=300)
    assert torch.equal(x_adv[y == 1], x[y == 1])
    assert [spent[1], spent[4]] == [1, 1]
    expected, _ = attack(target, x, norm, queries=300)
    torch.testing.assert_close(x_adv[y == 0], expected[y == 0], rtol=0, atol=1e-6)


@BOTH
def test_s3_a_constant_model_and_a_model_of_one_class_raise_nothing(norm: Norm) -> None:
    for classes in (1, 2):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
        with torch.no_grad():
            net[1].weight.zero_()
            net[1].bias.copy_(torch.arange(classes, 0, -1))
        x_adv, _ = attack(Classifier(net, classes, SHAPE), inputs(), norm, queries=50)
        assert torch.equal(x_adv, inputs())


@BOTH
def test_s2_a_row_depends_on_its_own_stream_only(norm: Norm) -> None:
    target, _ = two_classes()
    x = inputs().double()
    target.net.double()
    together, _ = attack(target, x, norm, queries=300)
    for numbers in ([0], [5, 2], [4, 3, 1]):
        x_adv, _ = attack(target, x[numbers], norm, queries=300, rng=rows(0, numbers))
        torch.testing.assert_close(x_adv, together[numbers], rtol=0, atol=1e-9)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_n5_the_ball_is_kept_in_every_precision(norm: Norm, dtype: torch.dtype) -> None:
    target, _ = two_classes()
    target.net.to(dtype)
    x = inputs().to(dtype)
    eps = {"linf": 0.2, "l2": 0.5}[norm]
    x_adv, _ = attack(target, x, norm, eps=eps, queries=500)
    assert x_adv.dtype == dtype
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    slack = torch.finfo(dtype).eps / 2 * (1 if norm == "linf" else 4)
    assert (size((x_adv - x).double(), norm) <= eps * (1 + 1e-6) + slack).all()
    assert (target.predict(x_adv).argmax(1) == 1).any()


@BOTH
def test_n6_pixels_that_are_exactly_0_or_1_are_moved(norm: Norm) -> None:
    target, _ = two_classes()
    x = (torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    x = x[gap(target, x) < 0][:6]
    x_adv, _ = attack(target, x, norm, queries=1000)
    assert (gap(target, x_adv) > 0).all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    # the way straight to noise is several times as long
    assert (
        size(x_adv - x, norm).median() < 0.5 * size(attack(target, x, norm, queries=20)[0] - x, norm).median()
    )
