"""Views and blur against their definitions."""

import math

import torch

from casemate.ops import optics


def pictures(n: int = 3, channels: int = 3, size: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.rand(
        n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def corners(angle=0.0, zoom=1.0, shift=(0.0, 0.0), n=1):
    def filled(value):
        return torch.full((n,), value, dtype=torch.float64)

    moved = torch.tensor(shift, dtype=torch.float64).expand(n, 2)
    return optics.seen_corners(filled(angle), filled(zoom), moved, torch.zeros(n, 4, 2, dtype=torch.float64))


def test_the_plain_view_changes_nothing():
    x = pictures(1)
    torch.testing.assert_close(optics.warp(x, corners()), x)


def test_a_quarter_turn_is_a_quarter_turn():
    """A positive angle turns the picture clockwise, against `torch.rot90`."""
    x = pictures(1)
    torch.testing.assert_close(optics.warp(x, corners(angle=math.pi / 2)), x.rot90(-1, (2, 3)))


def test_a_picture_moved_by_a_pixel_is_moved_by_a_pixel():
    x = pictures(1, size=8)
    seen = optics.warp(x, corners(shift=(1 / 8, 0.0)))
    torch.testing.assert_close(seen[..., 1:], x[..., :-1])
    torch.testing.assert_close(seen[..., 0], x[..., 0])  # beyond the edge the edge goes on


def test_a_picture_half_as_large_shows_twice_as_much():
    assert corners(zoom=0.5)[0].tolist() == [[-2, -2], [2, -2], [2, 2], [-2, 2]]


def test_homographies_take_the_square_to_the_corners_and_lines_to_lines():
    """The middle of the square is where the diagonals meet, in any perspective."""
    places = corners(angle=0.3, n=5) + 0.2 * pictures(5, 1, 8, seed=1).flatten(1)[:, :8].view(5, 4, 2)
    matrix = optics._homography(places)
    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1], [0, 0]], dtype=torch.float64)
    mapped = torch.cat([square, torch.ones(5, 1, dtype=torch.float64)], 1) @ matrix.transpose(1, 2)
    mapped = mapped[..., :2] / mapped[..., 2:]
    torch.testing.assert_close(mapped[:, :4], places)
    for a, b in ((0, 2), (1, 3)):
        along, off = places[:, b] - places[:, a], mapped[:, 4] - places[:, a]
        cross = along[:, 0] * off[:, 1] - along[:, 1] * off[:, 0]
        torch.testing.assert_close(cross, torch.zeros(5, dtype=torch.float64))


def test_views_do_not_depend_on_their_neighbours():
    x = pictures(4)
    views = corners(n=4) + 0.1 * pictures(4, 1, 8, seed=2).flatten(1)[:, :8].view(4, 4, 2)
    together = optics.warp(x, views)
    for i in range(4):
        torch.testing.assert_close(optics.warp(x[i : i + 1], views[i : i + 1]), together[i : i + 1])


def test_blur_spreads_a_point_as_a_gaussian_and_keeps_flat_areas():
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[..., 10, 10] = 1
    seen = optics.blur(x, torch.tensor([1.5]))[0, 0]
    at = torch.arange(21, dtype=torch.float64) - 10
    bell = torch.exp(-at.square() / (2 * 1.5**2))
    expected = torch.outer(bell, bell) / bell.sum() ** 2
    # at the far edge the weights that are cut off, 1e-5 of them, are made up for by the others
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)
    flat = torch.full((2, 3, 7, 5), 0.3, dtype=torch.float64)
    torch.testing.assert_close(optics.blur(flat, torch.tensor([0.7, 2.0])), flat)


def test_no_blur_changes_nothing():
    x = pictures()
    torch.testing.assert_close(optics.blur(x, torch.zeros(3)), x)
