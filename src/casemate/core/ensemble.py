"""Several classifiers as one."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from casemate.core.pooling import pool_first
from casemate.core.target import Classifier


class _MeanLogits(nn.Module):
    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        # here each net is known to run as a whole, which whoever lays out their ensemble cannot know
        self.nets = nn.ModuleList(pool_first(copy.deepcopy(member.net)) for member in members)
        self.members = tuple(members)

    def forward(self, x: Tensor) -> Tensor:
        # each member's own bounds and normalisation, around the nets that belong to this module
        parts = [replace(m, net=net).logits(x) for m, net in zip(self.members, self.nets, strict=True)]
        return torch.stack(parts).mean(0)


def mean_logits(members: Sequence[Classifier]) -> Classifier:
    """Join classifiers of the same inputs and classes into one that answers with their mean logits.

    Averaging logits is what Dong et al. 2018 found best for attacks on an ensemble. Any attack on a
    classifier thereby works on several.
    """
    first = members[0]
    return Classifier(_MeanLogits(members), first.classes, first.shape, device=first.device)
