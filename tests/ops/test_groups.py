"""The best cut of numbers, against all cuts."""

import pytest
import torch

from casemate.ops.groups import best_cut


def test_the_best_cut_has_most_variance_between_its_groups() -> None:
    """Brute force over all cuts."""
    numbers = torch.tensor([0.0, 5.0, 0.5, 4.0, 0.2, 0.1, 4.5], dtype=torch.float64)
    ordered, found = numbers.sort().values, []
    for cut in range(1, 7):
        groups = ordered[:cut], ordered[cut:]
        between = sum(len(part) * float(part.mean() - numbers.mean()) ** 2 for part in groups)
        found.append((between / float((numbers - numbers.mean()).square().sum()), cut))
    share, below = best_cut(numbers)
    assert share == pytest.approx(max(found)[0])
    assert below == max(found)[1] == 4


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.3, 0.3]])
def test_equal_or_missing_numbers_are_not_cut(values: list[float]) -> None:
    assert best_cut(torch.tensor(values)) == (0.0, 0)
