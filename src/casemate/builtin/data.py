"""Data sets that come with casemate: real clothing images, small digits, and drawn shapes."""

from importlib import resources

import numpy as np
import torch

from casemate.builtin import shapes as drawn
from casemate.core.data import Samples

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def fashion_mini() -> tuple[Samples, Samples]:
    """Load a balanced part of Fashion-MNIST (1x28x28): 5,000 training and 2,000 test images.

    They are the first 500 and 200 images of each class in the official order (see the NOTICE).
    """
    with (resources.files(__package__) / "fashion_mini.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    train, test = (
        Samples(
            torch.from_numpy(arrays[f"x_{part}"])[:, None].float() / 255,
            torch.from_numpy(arrays[f"y_{part}"]).long(),
            len(CLOTHES),
            CLOTHES,
        )
        for part in ("train", "test")
    )
    return train, test


def digits() -> tuple[Samples, Samples]:
    """Load scikit-learn's handwritten digits (1x8x8): 1,297 training and 500 test images.

    The order is shuffled once and for all, because neighbours in it share a writer.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    images = torch.from_numpy(x[order]).float().view(-1, 1, 8, 8) / 16
    samples = Samples(images, torch.from_numpy(y[order]).long(), 10, tuple("0123456789"))
    return samples[slice(0, 1297)], samples[slice(1297, None)]


def shapes(train: int = 2000, test: int = 1000, seed: int = 0) -> tuple[Samples, Samples]:
    """Draw coloured shapes (3x32x32) whose label is the shape and all else is free.

    Args:
        train: number of training images.
        test: number of test images.
        seed: seed of the attributes (see `builtin.shapes`).

    Returns:
        Training and test images.
    """
    samples = drawn.shapes(train + test, seed)
    return samples[slice(0, train)], samples[slice(train, None)]
