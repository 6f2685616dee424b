"""Points of the simplex against brute force on a grid."""

import torch

from casemate.ops.rng import generator
from casemate.ops.simplex import nearest_mixture, project


def grid(step: int = 100) -> torch.Tensor:
    """All points of the simplex in three dimensions whose entries are multiples of 1 / step."""
    a, b = torch.meshgrid(torch.arange(step + 1), torch.arange(step + 1), indexing="ij")
    a, b = a.flatten(), b.flatten()
    inside = a + b <= step
    return torch.stack([a[inside], b[inside], step - a[inside] - b[inside]], 1).double() / step


def test_the_projection_is_on_the_simplex_and_no_grid_point_is_nearer() -> None:
    v = 2 * torch.randn(20, 3, generator=generator(0), dtype=torch.float64)
    found = project(v)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=torch.float64))
    nearest = torch.cdist(v, grid()).amin(1)
    assert bool(((found - v).norm(dim=1) <= nearest + 1e-12).all())


def test_a_point_of_the_simplex_stays() -> None:
    torch.testing.assert_close(project(torch.tensor([0.2, 0.5, 0.3])), torch.tensor([0.2, 0.5, 0.3]))


def test_no_mixture_of_the_grid_is_nearer_to_the_point() -> None:
    rng = generator(1)
    corners = torch.randn(5, 3, 4, generator=rng, dtype=torch.float64)
    point = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    found = nearest_mixture(corners, point, torch.full((5, 3), 1 / 3, dtype=torch.float64), steps=2000)
    reached = ((found[..., None] * corners).sum(1) - point).norm(dim=1)
    least = (grid() @ corners - point[:, None]).norm(dim=2).amin(1)
    assert bool((reached <= least + 1e-9).all())


def test_equal_corners_are_no_trouble() -> None:
    start = torch.full((1, 3), 1 / 3)
    assert torch.allclose(nearest_mixture(torch.zeros(1, 3, 2), torch.ones(1, 2), start, steps=5), start)
