"""What the judge of backdoors does to marks and to supplied models."""

import torch

from casemate.assess.families.poisoning import Served, _rounded, _visibility
from casemate.core.data import Poison, Samples
from casemate.core.triggers import Added


def test_marks_reach_models_as_8_bit_images() -> None:
    """0.4 of a level is lost in rounding, 0.6 of a level becomes a whole one."""
    x = torch.full((1, 1, 2, 2), 100 / 255)
    lost, whole = (Served(Added(torch.full((1, 2, 2), part / 255)))(x) for part in (0.4, 0.6))
    assert torch.equal(lost, x)
    assert torch.allclose(whole * 255, torch.full_like(x, 101.0), atol=1e-4)


def test_poisons_are_rounded_before_training() -> None:
    trigger = Added(torch.zeros(1, 2, 2))
    made = _rounded(
        Poison(torch.tensor([0]), torch.full((1, 1, 2, 2), 100.4 / 255), torch.tensor([1]), trigger, 1)
    )
    assert torch.allclose(made.x * 255, torch.full_like(made.x, 100.0), atol=1e-4)


def test_one_tenth_everywhere_is_twenty_decibels() -> None:
    """-10 log10(0.1^2) = 20, and 0.1 is 25.5 levels."""
    clean = Samples(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 1]), 2)
    poison = Poison(torch.tensor([1]), torch.full((1, 1, 2, 2), 0.1), torch.tensor([0]), Added(clean.x[0]), 0)
    assert _visibility(poison, clean) == {"poisoned_rows": 1, "psnr_db": 20.0, "linf_levels": 25.5}
