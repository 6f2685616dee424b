"""Norms against brute force, linear programs and exact distributions."""

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from casemate.ops.norms import (
    dual_size,
    inward,
    linear_optimum,
    mean_scaled,
    project,
    random_in_ball,
    reach,
    rounding,
    shrink,
    size,
    steepest,
)
from casemate.ops.rng import rows

EPS = {"linf": 0.2, "l2": 0.5, "l1": 0.9, "l0": 2.0}
NORMS = pytest.mark.parametrize("norm", list(EPS))
BALLS = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_edges(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Rows with a third of their values at 0 and a third at 1."""
    x = uniform(n, d, seed=seed)
    kind = (3 * uniform(n, d, seed=seed + 100)).long()
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, x))


def test_sizes_of_a_row_by_hand():
    delta = torch.tensor([[3.0, 0.0, -4.0]])
    found = {norm: size(delta, norm).item() for norm in EPS}
    assert found == {"linf": 4.0, "l2": 5.0, "l1": 7.0, "l0": 2.0}


def test_a_pixel_counts_once_however_many_of_its_channels_changed():
    delta = torch.zeros(1, 3, 2, 2)
    delta[0, :, 0, 0] = 0.1
    delta[0, 1, 1, 1] = 0.2
    assert size(delta, "l0").item() == 2


@BALLS
def test_rounding_bounds_what_float32_adds(norm):
    """x + delta is off by at most half a unit in the last place of a value up to 1, per value."""
    x = uniform(200, 30, dtype=torch.float32)
    delta = 0.1 * normal(200, 30).float()
    x_adv = (x + delta).clamp(0, 1)
    exact = (x.double() + delta.double()).clamp(0, 1)
    assert (size(x_adv.double() - exact, norm) <= rounding(x, norm)).all()


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "dual"), [("linf", "l1"), ("l2", "l2"), ("l1", "linf")])
def test_the_steepest_direction_gains_the_dual_norm(norm, dual):
    """max <g, d> over |d| <= 1 is the dual norm of g (Hölder)."""
    grad = normal(20, 7)
    step = steepest(grad, norm)
    torch.testing.assert_close(size(step, norm), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close((step * grad).sum(1), size(grad, dual))


@NORMS
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_steepest_direction_does_not_depend_on_the_gradients_length(norm, scale):
    grad = normal(20, 7).float()
    torch.testing.assert_close(steepest(grad * scale, norm), steepest(grad, norm))


@NORMS
def test_a_row_without_gradient_does_not_move(norm):
    grad = normal(3, 5)
    grad[1] = 0
    assert steepest(grad, norm)[1].eq(0).all()
    assert mean_scaled(grad)[1].eq(0).all()


def test_a_sparse_l1_step_is_spread_evenly_over_the_largest_gradients():
    grad = torch.tensor([[0.1, -5.0, 3.0, 0.2, 0.0]])
    torch.testing.assert_close(steepest(grad, "l1", 0.4), torch.tensor([[0.0, -0.5, 0.5, 0.0, 0.0]]))


def test_a_sparse_l1_step_spends_nothing_on_zero_gradients():
    """Four of five values are to move, but one only has a gradient: it gets the whole length."""
    grad = torch.tensor([[0.0, 0.0, -2.0, 0.0, 0.0]])
    torch.testing.assert_close(steepest(grad, "l1", 0.8), torch.tensor([[0.0, 0.0, -1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_mean_scaled_gradients_have_mean_size_one(scale):
    scaled = mean_scaled(scale * normal(10, 8).float())
    torch.testing.assert_close(scaled.abs().mean(1), torch.ones(10))


def test_gradients_that_push_out_of_the_box_are_dropped():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5, 1e-7]])
    grad = torch.tensor([[-1.0, 1.0, 1.0, -1.0, 2.0, -3.0]])
    assert inward(grad, x).tolist() == [[0.0, 1.0, 0.0, -1.0, 2.0, -3.0]]


# --- best point of ball and box -------------------------------------------------------------------


def best_gain(x: np.ndarray, grad: np.ndarray, norm: str, eps: float) -> float:
    """Largest <grad, d> over ball and box by a general solver."""
    bounds = list(zip(-x, 1 - x, strict=True))
    d = len(x)
    match norm:
        case "linf":
            box = [(max(low, -eps), min(high, eps)) for low, high in bounds]
            return -optimize.linprog(-grad, bounds=box).fun
        case "l1":  # d = p - q with p, q >= 0 and sum(p + q) <= eps
            parts = [(0, high) for _, high in bounds] + [(0, -low) for low, _ in bounds]
            return -optimize.linprog(
                np.r_[-grad, grad], A_ub=np.ones((1, 2 * d)), b_ub=[eps], bounds=parts
            ).fun
        case "l2":
            ball = {"type": "ineq", "fun": lambda v: eps**2 - v @ v, "jac": lambda v: -2 * v}
            return -optimize.minimize(
                lambda v: -grad @ v, np.zeros(d), jac=lambda v: -grad, bounds=bounds, constraints=ball,
                method="SLSQP", options={"ftol": 1e-12, "maxiter": 500},
            ).fun  # fmt: skip
        case _:
            moves = np.where(grad > 0, 1 - x, x) * np.abs(grad)
            return max(moves[list(some)].sum() for some in itertools.combinations(range(d), int(eps)))


@NORMS
def test_no_point_of_ball_and_box_lies_farther_along_the_gradient(norm):
    x, grad = with_edges(12, 6), normal(12, 6)
    found = linear_optimum(x, grad, norm, EPS[norm])
    assert (size(found - x, norm) <= EPS[norm] * (1 + 1e-9)).all()
    assert ((found >= 0) & (found <= 1)).all()
    gain = ((found - x) * grad).sum(1)
    best = [best_gain(a, g, norm, EPS[norm]) for a, g in zip(x.numpy(), grad.numpy(), strict=True)]
    torch.testing.assert_close(gain, torch.tensor(best, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_away_from_the_box_the_l2_optimum_is_a_step_along_the_gradient():
    x, grad = torch.full((4, 9), 0.5, dtype=torch.float64), normal(4, 9)
    expected = x + 0.3 * grad / grad.norm(dim=1, keepdim=True)
    torch.testing.assert_close(linear_optimum(x, grad, "l2", 0.3), expected)


@NORMS
def test_a_ball_larger_than_the_box_gives_a_corner_of_the_box(norm):
    x, grad = with_edges(5, 6), normal(5, 6)
    expected = (grad > 0).to(x)
    assert torch.equal(linear_optimum(x, grad, norm, float("inf")), expected)
    assert torch.equal(linear_optimum(x, grad, norm, 1.0 if norm == "linf" else 6.0), expected)


def test_an_l0_optimum_counts_pixels():
    """One pixel may change in all channels: the one whose channels gain most together."""
    x, grad = torch.full((1, 2, 1, 3), 0.5), torch.zeros(1, 2, 1, 3)
    grad[0, :, 0, 0] = torch.tensor([3.0, 0.0])
    grad[0, :, 0, 2] = torch.tensor([2.0, -2.0])
    found = linear_optimum(x, grad, "l0", 1)
    assert found.flatten().tolist() == [0.5, 0.5, 1.0, 0.5, 0.5, 0.0]


# --- projections ----------------------------------------------------------------------------------


def l1_by_bisection(delta: np.ndarray, room: np.ndarray, eps: float) -> np.ndarray:
    """Sizes of the nearest point: clip(|d| - t, 0, room), t by halving an interval 200 times."""
    low, high = 0.0, np.abs(delta).max()
    if np.minimum(np.abs(delta), room).sum() <= eps:
        return np.minimum(np.abs(delta), room)
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if np.clip(np.abs(delta) - t, 0, room).sum() > eps else (low, t)
    return np.clip(np.abs(delta) - high, 0, room)


@pytest.mark.parametrize("spread", [0.01, 0.3, 5.0])
def test_l1_projection_finds_the_threshold(spread):
    x = with_edges(40, 11, seed=3)
    x_adv = x + spread * normal(40, 11, seed=4)
    found = project(x_adv, x, "l1", 0.7)
    for a, b, got in zip(x.numpy(), x_adv.numpy(), found.numpy(), strict=True):
        expected = l1_by_bisection(b - a, np.where(b > a, 1 - a, a), 0.7)
        np.testing.assert_allclose(np.abs(got - a), expected, atol=1e-12)


def test_S2_a_rows_l1_projection_does_not_depend_on_its_neighbours():
    """To the last bit: the search for a row's threshold ends when that row has it."""
    x = with_edges(60, 11, seed=5)
    x_adv = x + normal(60, 11, seed=6) * torch.logspace(-3, 1, 60, dtype=torch.float64)[:, None]
    alone = [project(x_adv[i : i + 1], x[i : i + 1], "l1", 0.3) for i in range(60)]
    assert torch.equal(project(x_adv, x, "l1", 0.3), torch.cat(alone))


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_point_of_ball_and_box_is_nearer_than_the_projection(norm):
    """Where p is nearest to z, <z - p, q - p> <= 0 for every q of the convex set (its normal cone)."""
    x = with_edges(30, 8)
    z = x + normal(30, 8)
    p = project(z, x, norm, EPS[norm])
    for seed in range(50):
        q = linear_optimum(x, normal(30, 8, seed=10 + seed), norm, EPS[norm])
        assert (((z - p) * (q - p)).sum(1) <= 1e-9).all()
    q = linear_optimum(x, z - p, norm, EPS[norm])
    assert (((z - p) * (q - p)).sum(1) <= 1e-9).all()


def test_l2_projection_shortens_then_clips():
    x = torch.tensor([[0.5, 0.5], [0.0, 0.5]])
    found = project(x + torch.tensor([[3.0, 4.0], [-3.0, 4.0]]), x, "l2", 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.56, 0.58], [0.0, 0.58]]))


def test_l0_projection_keeps_the_largest_changes():
    x = torch.full((1, 4), 0.5)
    found = project(x + torch.tensor([[0.1, -0.3, 0.2, 0.05]]), x, "l0", 2)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.2, 0.7, 0.5]]))


@NORMS
def test_projecting_twice_is_projecting_once(norm):
    x = with_edges(20, 9)
    once = project(x + normal(20, 9), x, norm, EPS[norm])
    torch.testing.assert_close(project(once, x, norm, EPS[norm]), once, rtol=0, atol=1e-12)


@NORMS
def test_an_infinite_radius_leaves_the_box(norm):
    z = 2 * normal(6, 5)
    assert torch.equal(project(z, torch.zeros_like(z), norm, float("inf")), z.clamp(0, 1))


@NORMS
def test_each_row_may_have_its_own_radius(norm):
    x, z = with_edges(3, 6), with_edges(3, 6) + normal(3, 6)
    radii = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    together = project(z, x, norm, radii)
    alone = [project(z[i : i + 1], x[i : i + 1], norm, float(radii[i])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


@NORMS
def test_a_radius_of_zero_gives_the_input_back(norm):
    x = with_edges(5, 6).float()
    assert torch.equal(project(x + 1e-3 * normal(5, 6).float(), x, norm, 0.0), x)


# --- random starts --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_random_starts_are_uniform_in_volume(norm):
    """The ball of radius r holds the share (r / eps)^d of the volume, so (|delta| / eps)^d is uniform.

    Kolmogorov-Smirnov at a level of 1 in 1,000 on 2,000 draws, which do not change.
    """
    d = 3
    delta = random_in_ball(torch.zeros(2000, d, dtype=torch.float64), norm, 0.7, rows(0, 2000))
    share = (size(delta, norm) / 0.7) ** d
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3


@BALLS
def test_random_starts_are_symmetric(norm):
    """Each value is positive as often as negative: 1,000 of 2,000, give or take four deviations."""
    delta = random_in_ball(torch.zeros(2000, 3, dtype=torch.float64), norm, 0.7, rows(1, 2000))
    assert ((delta > 0).sum(0) - 1000).abs().max() <= 4 * (2000 / 4) ** 0.5


def test_random_l0_starts_change_every_position_equally_often():
    """2 of 5 positions: each in 800 of 2,000 rows, give or take four deviations."""
    x = torch.full((2000, 5), 0.5)
    delta = random_in_ball(x, "l0", 2, rows(0, 2000))
    assert size(delta, "l0").eq(2).all()
    assert (delta.ne(0).sum(0) - 800).abs().max() <= 4 * (2000 * 0.4 * 0.6) ** 0.5


def test_random_l0_starts_change_whole_pixels():
    delta = random_in_ball(torch.full((20, 3, 4, 4), 0.5), "l0", 3, rows(0, 20))
    assert size(delta, "l0").eq(3).all()
    assert delta.ne(0).flatten(1).sum(1).eq(9).all()


@NORMS
def test_a_rows_start_does_not_depend_on_its_neighbours(norm):
    x = with_edges(4, 6)
    together = random_in_ball(x, norm, EPS[norm], rows(5, 4))
    alone = random_in_ball(x[2:3], norm, EPS[norm], rows(5, [2]))
    assert torch.equal(together[2:3], alone)


@NORMS
def test_empty_batches_pass_through(norm):
    x = torch.zeros(0, 1, 2, 2)
    for out in (
        project(x, x, norm, 1.0),
        random_in_ball(x, norm, 1.0, rows(0, 0)),
        linear_optimum(x, x, norm, 1.0),
        steepest(x, norm),
    ):
        assert out.shape == x.shape


def least_step(x: torch.Tensor, grad: torch.Tensor, gain: float, norm: str) -> float:
    """Size of the smallest step, by a linear program; in l2 by the sizes min(t |g|, room) at the right t."""
    n = len(x)
    low, high = (-x).numpy(), (1 - x).numpy()
    slope = grad.numpy()
    if norm == "l1":  # delta = p - q, sum of p + q least
        found = optimize.linprog(
            np.ones(2 * n), A_eq=[np.concatenate([slope, -slope])], b_eq=[gain],
            bounds=[*zip(np.zeros(n), high, strict=True), *zip(np.zeros(n), -low, strict=True)],
        )  # fmt: skip
        return float(found.fun)
    if norm == "linf":  # the last unknown bounds all others
        both = np.concatenate([np.eye(n), -np.eye(n)])
        found = optimize.linprog(
            np.append(np.zeros(n), 1), A_ub=np.column_stack([both, -np.ones(2 * n)]), b_ub=np.zeros(2 * n),
            A_eq=[np.append(slope, 0)], b_eq=[gain], bounds=[*zip(low, high, strict=True), (0, None)],
        )  # fmt: skip
        return float(found.fun)
    room = np.where(slope > 0, high, -low)
    step = lambda t: np.minimum(t * np.abs(slope), room)  # noqa: E731
    t = optimize.brentq(lambda t: np.abs(slope) @ step(t) - gain, 0, 1e6, xtol=1e-14)
    return float(np.linalg.norm(step(t)))


@BALLS
@pytest.mark.parametrize("share", [0.05, 0.6, 0.98])
def test_the_smallest_step_to_a_gain_agrees_with_a_program(norm, share):
    """Rows with values at the edges; `share` of what a step to the best corner gains is asked for."""
    x, grad = with_edges(20, 7), normal(20, 7)
    most = (grad * torch.where(grad > 0, 1 - x, -x)).sum(1)
    delta = reach(x, grad, share * most, norm)
    assert ((x + delta) >= -1e-12).all()
    assert ((x + delta) <= 1 + 1e-12).all()
    torch.testing.assert_close((grad * delta).sum(1), share * most)
    expected = [least_step(*row, norm) for row in zip(x, grad, (share * most).tolist(), strict=True)]
    torch.testing.assert_close(
        size(delta, norm), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9
    )


@BALLS
def test_a_gain_that_the_box_does_not_hold_gives_its_best_corner(norm):
    x, grad = with_edges(20, 7), normal(20, 7)
    corner = (grad > 0).double()
    delta = reach(x, grad, torch.full((20,), 1e3, dtype=torch.float64), norm)
    torch.testing.assert_close(x + delta, corner)


@BALLS
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_G2_the_smallest_step_does_not_depend_on_the_length_of_the_gradient(norm, scale):
    x, grad = uniform(20, 7, dtype=torch.float32), normal(20, 7).float()
    gain = torch.full((20,), 0.2)
    torch.testing.assert_close(reach(x, scale * grad, scale * gain, norm), reach(x, grad, gain, norm))


@BALLS
def test_a_row_without_slope_or_without_numbers_takes_no_step(norm):
    x, grad = uniform(3, 4), normal(3, 4)
    grad[0], grad[1] = 0, np.nan
    delta = reach(x, grad, torch.tensor([1.0, 1.0, np.nan]), norm)
    assert delta.eq(0).all()


@pytest.mark.parametrize("norm", list(EPS))
def test_the_dual_size_is_the_most_that_a_unit_step_gains(norm):
    """Half a unit far from the box, where `linear_optimum` spends the whole radius (l0: one value to its edge)."""
    x, grad = torch.full((20, 7), 0.5, dtype=torch.float64), normal(20, 7)
    eps = 1.0 if norm == "l0" else 0.5
    gain = (grad * (linear_optimum(x, grad, norm, eps) - x)).sum(1)
    torch.testing.assert_close(0.5 * dual_size(grad, norm), gain)


def test_the_dual_size_of_a_pixel_adds_its_channels():
    grad = torch.zeros(1, 3, 2, 2)
    grad[0, :, 1, 0] = torch.tensor([1.0, -2.0, 3.0])
    grad[0, 0, 0, 0] = 5
    assert dual_size(grad, "l0").item() == 6


@NORMS
@pytest.mark.parametrize("spread", [0.02, 0.4, 5.0])
def test_shrinking_gives_the_nearest_point_of_the_ball(norm, spread):
    """By the definition of each ball, with nothing sorted and no threshold searched.

    linf: every value to the nearest in [-eps, eps]. l2: along the ray, at most eps long. l0: the best of all
    sets of eps values. l1: the best of the nearest points on the planes of all faces that lie on their face.
    """
    delta = spread * normal(12, 5, seed=8)
    for d, got in zip(delta.numpy(), shrink(delta, norm, EPS[norm]).numpy(), strict=True):
        np.testing.assert_allclose(got, nearest(d, norm, EPS[norm]), atol=2e-6)


def nearest(d: np.ndarray, norm: str, eps: float) -> np.ndarray:
    """Nearest point to d (D,) in the ball of radius eps, by brute force."""
    if norm == "linf":
        return np.array([min(max(v, -eps), eps) for v in d])
    if norm == "l2":
        return d * min(1.0, eps / np.sqrt((d**2).sum()))
    if norm == "l0":
        kept = [
            np.isin(np.arange(len(d)), chosen) * d
            for chosen in itertools.combinations(range(len(d)), int(eps))
        ]
        return min(kept, key=lambda p: ((p - d) ** 2).sum())
    if np.abs(d).sum() <= eps:
        return d
    faces = []
    for kept in itertools.product((False, True), repeat=len(d)):
        on = np.array(kept)
        if on.any():
            sizes = np.where(on, np.abs(d) - (np.abs(d[on]).sum() - eps) / on.sum(), 0)
            faces += [np.sign(d) * sizes] if (sizes >= 0).all() else []
    return min(faces, key=lambda p: ((p - d) ** 2).sum())


@BALLS
def test_no_point_of_the_ball_is_nearer_than_what_shrinking_gives(norm):
    """Where p is nearest to z, <z - p, q - p> <= 0 for every q of the convex ball: for its extreme points."""
    z = normal(30, 7, seed=9)
    p = shrink(z, norm, EPS[norm])
    for seed in range(40):
        q = EPS[norm] * steepest(normal(30, 7, seed=20 + seed), norm)
        assert (((z - p) * (q - p)).sum(1) <= 1e-9).all()


@NORMS
def test_shrinking_leaves_what_is_inside_as_it_is(norm):
    inside = 0.99 * EPS[norm] * steepest(normal(20, 7), norm)
    assert torch.equal(shrink(inside, norm, EPS[norm]), inside)
    assert torch.equal(shrink(torch.zeros(3, 7), norm, EPS[norm]), torch.zeros(3, 7))


@NORMS
def test_shrinking_to_nothing_gives_nothing(norm):
    assert not shrink(normal(4, 7), norm, 0.0).any()


def test_shrinking_in_l0_counts_pixels_of_pictures():
    """Two of four pixels: 0.5 + 0.5 and 0.9 + 0 are the largest sums over channels, though 0.9 is the largest value."""
    delta = torch.tensor([[[[0.5, 0.9], [0.3, 0.0]], [[-0.5, 0.0], [0.3, 0.8]]]])
    expected = torch.tensor([[[[0.5, 0.9], [0.0, 0.0]], [[-0.5, 0.0], [0.0, 0.0]]]])
    assert torch.equal(shrink(delta, "l0", 2), expected)
