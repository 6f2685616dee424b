"""Small nets fit any shape."""

import pytest
import torch

from casemate.builtin.nets import small_cnn, small_mlp


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 5, 6), (1, 40, 56), (4, 1, 3)])
@pytest.mark.parametrize("classes", [2, 7, 100])
def test_nets_take_any_images_and_classes(shape: tuple[int, int, int], classes: int) -> None:
    for make in (small_cnn, small_mlp):
        assert make(shape, classes)(torch.rand(3, *shape)).shape == (3, classes)


def test_the_mlp_takes_tables() -> None:
    assert small_mlp((7,), 2)(torch.rand(5, 7)).shape == (5, 2)


def test_the_built_in_architecture_is_small() -> None:
    """16*9+16 + 32*144+32 + 1568*64+64 + 640+10 = 105,866 weights."""
    assert sum(p.numel() for p in small_cnn((1, 28, 28), 10).parameters()) == 105_866
