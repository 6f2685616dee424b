"""Smaller pictures against torch's own interpolation."""

import torch

from casemate.ops.resizing import shrunk


def test_shrinking_is_interpolation_and_black_around():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shrunk(x, torch.tensor([0.75, 0.5]), torch.tensor([0.0, 0.99]), torch.tensor([0.5, 0.0]))
    # 6 pixels, at the top, 1 of 0 .. 2 from the left; 4 pixels, at the bottom left
    for row, (side, top, left) in enumerate([(6, 0, 1), (4, 4, 0)]):
        expected = torch.zeros(3, 8, 8, dtype=torch.float64)
        small = torch.nn.functional.interpolate(x[row : row + 1], size=(side, side), mode="bilinear")[0]
        expected[:, top : top + side, left : left + side] = small
        torch.testing.assert_close(found[row], expected)
