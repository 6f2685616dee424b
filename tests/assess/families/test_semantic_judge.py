"""The judge of semantic attacks counts what is misread, allowed and still means the same, and nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casemate.assess.families.semantic import judge
from casemate.core.spaces import LatentSpace
from casemate.core.target import Classifier
from casemate.generators.models import LatentModel


class Bright(nn.Module):
    """Class 1 where the first value exceeds 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0] - 0.5], 1)


@dataclass(frozen=True)
class Second:
    """A reader that finds class 0 wherever the second value is below 0.5."""

    def keeps(self, x: Tensor, y: Tensor) -> Tensor:
        return (x[:, 1] >= 0.5).long() == y


TARGET = Classifier(Bright(), 2, (2,))
SPACE = LatentSpace(LatentModel(nn.Identity(), nn.Identity(), 2, (2,), 1), torch.zeros(5, 2), 1.0)
CODES = torch.tensor([
    [0.9, 0.1],  # misread and legitimate
    [0.8, 0.6],  # misread, but its meaning is gone
    [0.1, 0.1],  # read rightly
    [3.0, 0.0],  # misread, but outside the radius
    [float("nan"), 0.0],
])  # fmt: skip


def test_only_misread_and_legitimate_rows_in_the_space_count():
    found = judge(TARGET, Second(), SPACE, CODES, torch.zeros(5, dtype=torch.int64))
    assert found.misread.tolist() == [True, True, False, False, False]
    assert found.fooled.tolist() == [True, False, False, False, False]
    assert found.stray.tolist() == [False, False, False, True, True]
    assert found.x.isfinite().all()
