"""Labels that poison gets."""

import torch
from torch import Generator, Tensor


def flooding(y: Tensor, classes: int, count: int, rng: Generator) -> int:
    """Draw the class that `count` rows of labels y (N,) are all to be given, a wrong one for each of them.

    It is one of those that as many rows are not of; where there is none, one that the fewest rows are of.
    """
    others = len(y) - torch.bincount(y.cpu(), minlength=classes)
    able = (others >= min(count, int(others.max()))).nonzero().flatten()
    return int(able[torch.randint(len(able), (), generator=rng)])
