"""The convex head and its influence functions, against brute force."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from casemate.ops import logistic
from casemate.ops.influence import Inverse, leave_one_out, probe_gradient, solve
from casemate.ops.rng import generator

N, D, K, L2 = 60, 4, 3, 1e-2


def problem(many: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of features whose classes overlap."""
    rng = generator(3)
    y = torch.arange(many * N).view(many, N) % K
    centres = torch.randn(K, D, generator=rng, dtype=torch.float64)
    return centres[y] + torch.randn(many, N, D, generator=rng, dtype=torch.float64), y


def flat_loss(features: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return logistic.loss(features[None], y[None], weights.view(1, K, D + 1), l2=L2)[0]


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    features, y = problem()
    weights = torch.randn(2, K, D + 1, generator=generator(1), dtype=torch.float64)
    slope, bend = logistic.gradient(features, y, weights, l2=L2), logistic.hessian(features, weights, l2=L2)
    for t in range(2):
        w, loss = weights[t].flatten(), partial(flat_loss, features[t], y[t])
        expected = torch.autograd.functional.jacobian(loss, w)
        torch.testing.assert_close(slope[t].flatten(), expected)
        expected = torch.autograd.functional.hessian(loss, w)
        torch.testing.assert_close(bend[t], expected)


def test_a_fitted_head_has_no_slope_left_and_neighbours_do_not_matter() -> None:
    features, y = problem()
    weights = logistic.fit(features, y, K, l2=L2)
    assert float(logistic.gradient(features, y, weights, l2=L2).abs().max()) < 1e-9
    torch.testing.assert_close(logistic.fit(features[:1], y[:1], K, l2=L2), weights[:1], atol=1e-7, rtol=0)


def test_newton_finds_the_minimum_of_separable_rows_with_hardly_any_regularisation() -> None:
    """Full steps from zero overshoot here; halved ones do not."""
    features = torch.tensor([[[-3.0], [-1e-3], [1e-3], [300.0]]], dtype=torch.float64)
    y = torch.tensor([[0, 0, 1, 1]])
    weights = logistic.fit(features, y, 2, l2=1e-6, steps=200)
    assert float(logistic.gradient(features, y, weights, l2=1e-6).abs().max()) < 1e-9


def test_no_problem_at_all_is_solved_at_once() -> None:
    assert logistic.fit(torch.zeros(0, 5, D), torch.zeros(0, 5, dtype=torch.int64), K, l2=L2).shape == (
        0, K, D + 1,
    )  # fmt: skip


@pytest.mark.parametrize("inverse", ["exact", "cg"])
def test_the_inverse_undoes_the_hessian(inverse: Inverse) -> None:
    features, y = problem()
    weights = logistic.fit(features, y, K, l2=L2)
    vectors = torch.randn(2, K, D + 1, generator=generator(2), dtype=torch.float64)
    found = solve(features, weights, vectors, l2=L2, inverse=inverse)
    back = (logistic.hessian(features, weights, l2=L2) @ found.flatten(1)[..., None]).view_as(vectors)
    torch.testing.assert_close(back, vectors, atol=1e-7, rtol=0)


def test_ekfac_is_exact_where_all_rows_have_the_same_answer() -> None:
    """With weights 0 every answer is uniform, and the Hessian is a Kronecker product."""
    features, _ = problem()
    weights = torch.zeros(2, K, D + 1, dtype=torch.float64)
    vectors = torch.randn(2, K, D + 1, generator=generator(2), dtype=torch.float64)
    exact, near = (solve(features, weights, vectors, l2=L2, inverse=how) for how in ("exact", "ekfac"))
    torch.testing.assert_close(near, exact)


@pytest.mark.parametrize(("inverse", "least"), [("exact", 0.99), ("cg", 0.99), ("ekfac", 0.9)])
def test_influence_predicts_what_leaving_a_row_out_does(inverse: Inverse, least: float) -> None:
    """Each of the 60 rows is left out and the head trained again."""
    features, y = problem(1)
    weights = logistic.fit(features, y, K, l2=L2)
    probe, wish = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64), torch.tensor([1])

    def probe_loss(w: Tensor) -> Tensor:
        return logistic.loss(probe[:, None].expand(len(w), 1, D), wish[:, None].expand(len(w), 1), w, l2=0.0)

    kept = torch.stack([torch.arange(N)[torch.arange(N) != i] for i in range(N)])
    again = logistic.fit(features[0][kept], y[0][kept], K, l2=L2)
    actual = probe_loss(again) - probe_loss(weights)
    predicted = leave_one_out(features, y, weights, probe, wish, l2=L2, inverse=inverse)[0]
    assert np.corrcoef(actual.numpy(), predicted.numpy())[0, 1] >= least
    slope = float((actual * predicted).sum() / predicted.square().sum())
    assert 0.7 < slope < 1.4, "right up to a factor"


def test_the_probe_gradient_is_that_of_its_loss() -> None:
    weights = torch.randn(1, K, D + 1, generator=generator(1), dtype=torch.float64)
    probe, wish = torch.randn(1, D, generator=generator(5), dtype=torch.float64), torch.tensor([2])
    expected = torch.autograd.functional.jacobian(
        lambda w: logistic.loss(probe[None], wish[None], w, l2=0.0)[0], weights
    )
    torch.testing.assert_close(probe_gradient(probe, wish, weights), expected)
