"""Small nets for any shape and number of classes."""

from torch import nn


def small_cnn(shape: tuple[int, ...], classes: int, /, *, width: int = 16, hidden: int = 64) -> nn.Sequential:
    """Build two convolutions and a hidden layer, without normalisation layers.

    Args:
        shape: (C, H, W) of one image.
        classes: number of classes K.
        width: channels of the first convolution; the second has twice as many.
        hidden: units of the hidden layer.

    Returns:
        The net, (N, C, H, W) -> logits (N, K).
    """
    values = 2 * width * _quarter(shape[1]) * _quarter(shape[2])
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(values, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def small_mlp(shape: tuple[int, ...], classes: int, /, *, hidden: int = 128) -> nn.Sequential:
    """Build two hidden layers on the flattened input.

    Args:
        shape: shape S of one input.
        classes: number of classes K.
        hidden: units of each hidden layer.

    Returns:
        The net, (N, *S) -> logits (N, K).
    """
    values = 1
    for size in shape:
        values *= size
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(values, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def _quarter(size: int) -> int:
    """Halve twice, rounding up, as the pooling does."""
    return -(-size // 4)
