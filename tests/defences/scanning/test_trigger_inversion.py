"""Neural Cleanse, least perturbations and warps: sizes known beforehand, and how the search behaves."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.inversion import invert
from casemate.core.scanning import anomaly, judged, smaller
from casemate.core.stamps import Patches, Warps
from casemate.core.target import Classifier
from casemate.defences.scanning.least_perturbation import least_perturbation
from casemate.defences.scanning.neural_cleanse import neural_cleanse
from casemate.defences.scanning.warp_inversion import warp_inversion
from casemate.ops.rng import generator

PIXELS = (1, 4, 5, 6, 7)


class Blocks(nn.Module):
    """Class c has 4 where pixel (0, c) is over a half, and 8 times the mean of its own pixels in row c + 1."""

    def forward(self, x: Tensor) -> Tensor:
        known = 4 * (x[:, 0, 0, : len(PIXELS)] > 0.5).float()
        return known + 8 * torch.stack([x[:, 0, c + 1, :n].mean(1) for c, n in enumerate(PIXELS)], 1)


def blocks(n: int = 50) -> tuple[Classifier, Samples]:
    y = torch.arange(n) % len(PIXELS)
    x = torch.zeros(n, 1, 8, 8)
    x[torch.arange(n), 0, 0, y] = 1
    return Classifier(Blocks(), len(PIXELS), (1, 8, 8)), Samples(x, y, len(PIXELS))


def test_the_mask_of_a_class_covers_just_enough_of_its_pixels() -> None:
    """A row of another class has 4 for its own class and 0 for class c.

    What decides about the 4 has no gradient, so the mask leaves it alone. A mask m with a white pattern on
    the n pixels of class c gives it 8 * sum(m) / n, which is over 4 from sum(m) = n / 2 on: 0.5, 2, 2.5, 3
    and 3.5 pixels. The median is 2.5, the median deviation from it 0.5, and the index of class 0
    2 / (1.4826 * 0.5) = 2.70; that of the others is below 0.7.
    """
    model, clean = blocks()
    found = neural_cleanse(model, clean, steps=600, rng=generator(0))
    expected = torch.tensor(PIXELS) / 2
    assert ((found.size / expected > 0.99) & (found.size / expected < 1.25)).all()
    assert found.flagged.tolist() == [True, False, False, False, False]
    assert found.suspect == 0
    assert (found.success == 1).all()
    marked = found.triggers[0](clean.x)
    assert (model.predict(marked).argmax(1) == 0).all()


def test_the_least_perturbation_spreads_evenly_over_the_pixels() -> None:
    """A sum of n / 2 over n pixels has its least l2 norm where each has 1/2: sqrt(n) / 2.

    The search stops short of the least by the same share for all classes; what counts are ratios.
    """
    model, clean = blocks()
    found = least_perturbation(model, clean, steps=600, rng=generator(0))
    excess = found.size / (torch.tensor(PIXELS).sqrt() / 2)
    assert ((excess > 0.99) & (excess < 1.4)).all()
    torch.testing.assert_close(excess, excess.mean().expand(5), rtol=0.02, atol=0)
    assert int(found.evidence.argmax()) == 0


@dataclass(frozen=True)
class Ramp:
    """Class 1 has 4, class 0 what the picture has become darker by on average, `slope` times."""

    slope: float

    def __call__(self, x: Tensor) -> Tensor:
        darker = (torch.arange(16) / 15 - x[:, 0]).mean((1, 2))
        return torch.stack([self.slope * darker, torch.full_like(darker, 4)], 1)


class Called(nn.Module):
    """A function as a net."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("slope", [120.0, 60.0])
def test_the_least_warp_shifts_each_place_as_far_as_it_counts(slope: float) -> None:
    """On a ramp of 1/15 a pixel, a shift by s pixels darkens by s / 15, wherever the border is not reached.

    The mean darkening is then w . u / 15 with the shifts u (4 x 4 places) to the left and w how much a pixel
    hangs on each place on average, which the interpolation of unit vectors tells. 4 is reached at
    w . u = 60 / slope, and the least u is along w, of root mean square 60 / (slope * |w| * sqrt(16)). The
    left border, where nothing darker comes in, costs a little more, and the search stops a little short.
    """
    x = (torch.arange(16) / 15).expand(40, 1, 16, 16).clone()
    clean = Samples(x, torch.ones(40, dtype=torch.int64), 2)
    found = warp_inversion(
        Classifier(Called(Ramp(slope)), 2, (1, 16, 16)), clean, steps=600, rng=generator(0)
    )
    units = torch.eye(16).view(16, 1, 4, 4)
    w = F.interpolate(units, (16, 16), mode="bicubic", align_corners=True).mean((1, 2, 3))
    least = 60 / slope / float(w.norm()) / 4
    assert least < float(found.size[0]) < 1.4 * least
    assert float(found.success[0]) == 1


def test_a_warp_without_shifts_changes_nothing_and_one_by_a_pixel_moves_by_one() -> None:
    x = torch.rand(2, 3, 1, 9, 7, generator=generator(1))
    shifts = torch.zeros(2, 2, 4, 4)
    torch.testing.assert_close(Warps().stamp([shifts], x), x)
    shifts[:, 0] = 1.0
    torch.testing.assert_close(Warps().stamp([shifts], x)[..., :-1], x[..., 1:])


def test_the_anomaly_index_counts_deviations_below_the_median() -> None:
    """Sizes 1, 4, 5, 6, 7: median 5, deviations 4, 1, 0, 1, 2 of median 1; (5 - 1) / 1.4826 = 2.698."""
    index = anomaly(torch.tensor([1.0, 4, 5, 6, 7]))
    assert float(index[0]) == pytest.approx(4 / 1.4826)
    assert float(index[4]) == pytest.approx(-2 / 1.4826)
    assert (anomaly(torch.ones(4)) == 0).all()
    assert float(smaller(torch.tensor([1.0, 4, 5, 6, 7]))[0]) == pytest.approx(math.log(5))


def test_how_many_classes_are_searched_at_a_time_changes_no_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clean = blocks()

    together = neural_cleanse(model, clean, steps=40, rng=generator(0))
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("casemate.core.inversion.AT_ONCE", 2 * 20 * 64)
    apart = neural_cleanse(
        model, clean, steps=40, rng=generator(0), tick=lambda done, total, _: seen.append((done, total))
    )
    torch.testing.assert_close(apart.size, together.size)
    torch.testing.assert_close(apart.success, together.success)
    assert seen[-1] == (120, 120)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_trigger_that_does_not_work_is_no_small_one() -> None:
    """Size 1 with a success of 3% counts as 7, the largest: the median of 7, 4, 5, 6, 7 is 6, and 4 is log 1.5 below."""
    size, success = torch.tensor([1.0, 4, 5, 6, 7]), torch.tensor([0.03, 0.9, 0.95, 0.99, 1])
    evidence, flagged = judged(size, success, 0.95, 2.0)
    assert float(evidence[0]) == pytest.approx(math.log(6 / 7))
    assert float(evidence[1]) == pytest.approx(math.log(1.5))
    assert not flagged.any()


def test_classes_that_stand_still_leave_the_batch_and_change_no_other() -> None:
    """Passes fall short of steps * batch * classes, and a larger net of more classes finds the same for one."""
    model, clean = blocks()
    settings = {"steps": 400, "batch": 8, "lr": 0.1, "success": 0.99}
    found = invert(model, clean, Patches(), rng=generator(0), **settings)
    assert found.passes < 2 * 400 * 8 * 5
    long = invert(model, clean, Patches(), rng=generator(0), **(settings | {"steps": 700}))
    assert found.passes == long.passes or (long.size <= found.size + 1e-6).all()


def test_what_has_no_gradient_or_no_row_is_refused() -> None:
    model, clean = blocks()
    for target, rows in (
        (model, clean[:0]),
        (Classifier(Blocks(), 5, (1, 8, 8), differentiable=False), clean),
    ):
        with pytest.raises(NotApplicable, match="gradients"):
            neural_cleanse(target, rows, rng=generator(0))
    with pytest.raises(NotApplicable, match="images"):
        neural_cleanse(Classifier(nn.Linear(3, 2), 2, (3,)), Samples(torch.rand(4, 3), torch.zeros(4).long(), 2),
                       rng=generator(0))  # fmt: skip
