"""Numbers that fall into two groups."""

import torch
from torch import Tensor


def best_cut(values: Tensor, /) -> tuple[float, int]:
    """Cut numbers (N,) in two where most of their variance lies between the groups (2-means).

    Gives the share of the variance between the groups, in [0, 1], and how many numbers lie below the
    cut. A normal distribution cut in two has 0.64 between its halves, a uniform one 0.75.
    """
    ordered = (values - values.mean()).sort().values if len(values) else values
    total = float(ordered.square().sum())
    if len(ordered) < 2 or total == 0:
        return 0.0, 0
    below = torch.arange(1, len(ordered), device=values.device)
    # the sums left and right of a cut are s and -s, as the mean is zero
    s = ordered.cumsum(0)[:-1]
    between = s.square() / below + s.square() / (len(ordered) - below)
    best = int(between.argmax())
    return float(between[best]) / total, best + 1
