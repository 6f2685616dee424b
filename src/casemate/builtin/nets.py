"""Small nets for any shape and number of classes."""

import torch
from torch import Tensor, nn


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


class Residual(nn.Module):
    """Two normalised convolutions beside an identity (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute relu(x + body(x)) for x (N, C, H, W)."""
        return torch.relu(x + self.body(x))


def small_resnet(
    shape: tuple[int, ...], classes: int, /, *, width: int = 16, blocks: int = 2
) -> nn.Sequential:
    """Build a residual net: normalised, averaging over places instead of a hidden layer.

    Args:
        shape: (C, H, W) of one image.
        classes: number of classes K.
        width: channels of the first of two stages; the second has twice as many.
        blocks: residual blocks in each stage, of two convolutions each.

    Returns:
        The net, (N, C, H, W) -> logits (N, K).
    """
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        *[Residual(width) for _ in range(blocks)],
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        *[Residual(2 * width) for _ in range(blocks)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def small_strided(shape: tuple[int, ...], classes: int, /, *, width: int = 24) -> nn.Sequential:
    """Build three wide strided convolutions with smooth units and no pooling.

    Args:
        shape: (C, H, W) of one image.
        classes: number of classes K.
        width: channels of the first convolution; the others have twice as many.

    Returns:
        The net, (N, C, H, W) -> logits (N, K).
    """
    values = 2 * width * -(-_quarter(shape[1]) // 2) * -(-_quarter(shape[2]) // 2)
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(width, 2 * width, 5, stride=2, padding=2),
        nn.GELU(),
        nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(values, classes),
    )


def small_vgg(shape: tuple[int, ...], classes: int, /, *, width: int = 16) -> nn.Sequential:
    """Build three pairs of normalised convolutions with pooling, and no hidden layer.

    Args:
        shape: (C, H, W) of one image.
        classes: number of classes K.
        width: channels of the first pair; each further pair has twice as many.

    Returns:
        The net, (N, C, H, W) -> logits (N, K).
    """
    layers: list[nn.Module] = []
    before = shape[0]
    for after in (width, 2 * width, 4 * width):
        for channels in (before, after):
            layers += [
                nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            ]  # fmt: skip
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def small_patches(
    shape: tuple[int, ...], classes: int, /, *, patch: int = 4, width: int = 48, blocks: int = 2
) -> nn.Sequential:
    """Build a net that cuts the image into patches and mixes each channel over wide neighbourhoods.

    Args:
        shape: (C, H, W) of one image.
        classes: number of classes K.
        patch: side of a patch, in pixels.
        width: channels of a patch.
        blocks: mixing blocks.

    Returns:
        The net, (N, C, H, W) -> logits (N, K).
    """
    side = min(patch, shape[1], shape[2])
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, side, stride=side), nn.GELU()]
    for _ in range(blocks):
        layers += [
            nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GELU(), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def _quarter(size: int) -> int:
    """Halve twice, rounding up, as the pooling does."""
    return -(-size // 4)
