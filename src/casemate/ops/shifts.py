"""Small random shifts of images."""

import torch
from torch import Generator, Tensor


def shifted(x: Tensor, pixels: int, rng: Generator) -> Tensor:
    """Move each image of x (N, C, H, W) by up to `pixels` down and across, at random; edges repeat."""
    if not pixels or not len(x):
        return x
    n, _, height, width = x.shape
    moves = torch.randint(-pixels, pixels + 1, (2, n, 1), generator=rng).to(x.device)
    rows = (torch.arange(height, device=x.device) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) + moves[1]).clamp(0, width - 1)
    which = torch.arange(n, device=x.device)[:, None, None]
    # indexing puts the channels last: (N, H, W, C)
    found: Tensor = x.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)
