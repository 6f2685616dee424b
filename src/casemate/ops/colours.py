"""Colours as hue, saturation and value."""

import torch
from torch import Tensor


def to_hsv(x: Tensor) -> Tensor:
    """Convert images (N, 3, H, W) of red, green and blue, all in [0, 1]; the hue of grey is 0."""
    value, most = x.max(1)
    chroma = value - x.amin(1)
    red, green, blue = x.unbind(1)
    safe = torch.where(chroma == 0, 1, chroma)
    sixths = torch.stack([(green - blue) / safe % 6, (blue - red) / safe + 2, (red - green) / safe + 4], 1)
    hue = sixths.gather(1, most[:, None])[:, 0] / 6
    saturation = chroma / torch.where(value == 0, 1, value)
    return torch.stack([torch.where(chroma == 0, 0, hue), saturation, value], 1)


def from_hsv(hsv: Tensor) -> Tensor:
    """Convert images (N, 3, H, W) of hue, saturation and value back to red, green and blue."""
    hue, saturation, value = hsv.unbind(1)
    # each colour's distance from where it is darkest, along the circle of hues
    parts = [(n + hue * 6) % 6 for n in (5, 3, 1)]
    return torch.stack(
        [value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1) for k in parts], 1
    ).clamp(0, 1)
