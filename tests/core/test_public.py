"""Pictures that anybody has: shapes, values and kinds."""

import torch

from casemate.builtin.data import digits
from casemate.core.public import figures, handwriting
from casemate.ops.rng import generator


def test_figures_have_two_colours_and_six_kinds() -> None:
    x, kinds = figures((3, 16, 12), 60, generator(0))
    assert x.shape == (60, 3, 16, 12)
    assert kinds.bincount().tolist() == [10] * 6
    assert all(len(picture.flatten(1).unique(dim=1).T) == 2 for picture in x)


def test_handwriting_is_enlarged_alike_in_all_channels_and_keeps_its_digit() -> None:
    """Brought back to eight pixels a digit is a little blurred, and still nearest to itself among all."""
    known = torch.cat([part.x for part in digits()])
    y = torch.cat([part.y for part in digits()])
    x, kinds = handwriting((3, 16, 16), 50, generator(0))
    assert x.shape == (50, 3, 16, 16)
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert torch.equal(x[:, 0], x[:, 2])
    small = torch.nn.functional.avg_pool2d(x[:, :1], 2)
    nearest = torch.cdist(small.flatten(1), known.flatten(1)).argmin(1)
    assert torch.equal(y[nearest], kinds)


def test_there_is_no_more_handwriting_than_there_is() -> None:
    x, kinds = handwriting((1, 8, 8), 5000, generator(0))
    assert len(x) == len(kinds) == 1797
