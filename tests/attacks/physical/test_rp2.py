"""RP2: where stickers are laid, the non-printability score, and stickers on small models."""

import itertools

import pytest
import torch

from casemate.attacks.physical.rp2 import boxes_around, nonprintability, printable, rp2
from casemate.core.channel import Channel
from casemate.core.errors import NotApplicable
from casemate.core.physical import Print, Sticker
from casemate.core.target import GradientOracle
from casemate.core.threat import Misclassify
from casemate.ops.rng import rows
from conformance.models import linear


def strengths(seed: int, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 7, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1])
def test_one_box_is_the_best_of_all_places_and_shapes(seed):
    """Eight pixels: shapes of 3x2, 2x4, 4x2, 1x8 and 6x1 at each place, tried one by one."""
    strength = strengths(seed)
    mask = boxes_around(strength, 8, 1)[:, 0]
    sizes = {(3, 2), (2, 4), (4, 2), (1, 8), (6, 1)}
    for row, found in zip(strength, mask, strict=True):
        best = max(
            float(row[y : y + h, x : x + w].sum())
            for h, w in sizes
            for y, x in itertools.product(range(7 - h + 1), range(9 - w + 1))
        )
        assert float((row * found).sum()) == pytest.approx(best)


def test_boxes_keep_their_area_and_do_not_waste_it_on_each_other():
    for boxes in (1, 2, 3, 5):
        mask = boxes_around(strengths(4), 20, boxes)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert (mask.flatten(1).sum(1) <= 20).all()
    two_peaks = torch.zeros(1, 10, 10)
    two_peaks[0, 1:3, 1:3], two_peaks[0, 7:9, 6:8] = 2.0, 1.0
    mask = boxes_around(two_peaks, 8, 2)[0, 0]
    assert float((two_peaks[0] * mask).sum()) == 12.0


def test_more_boxes_than_pixels_leave_nothing_to_lay():
    assert boxes_around(strengths(0), 2, 3).sum() == 0


def test_the_score_is_the_product_of_distances_to_the_colours():
    x = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    palette = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]] * 2, dtype=torch.float64)
    for picture, score in zip(x, nonprintability(x, palette, mask), strict=True):
        places = [(0, 0), (1, 0), (1, 1)]
        by_hand = sum(
            float(torch.stack([(picture[:, i, j] - c).norm() for c in palette]).prod()) for i, j in places
        )
        assert float(score) == pytest.approx(by_hand / 3)


def test_printable_colours_cost_nothing_and_have_a_gradient_that_is_a_number():
    palette = printable(Channel(), torch.zeros(1, 3, 2, 2))
    assert palette.shape == (8, 3)
    x = palette[5].view(1, 3, 1, 1).expand(1, 3, 2, 2).clone().requires_grad_()
    score = nonprintability(x, palette, torch.ones(1, 1, 2, 2))
    assert score.tolist() == [0.0]
    score.sum().backward()
    assert x.grad.isfinite().all()
    assert printable(Channel(), torch.zeros(1, 1, 2, 2)).shape == (5, 1)


def test_stickers_of_the_allowed_area_fool_where_noise_cannot():
    setting = linear(shape=(1, 8, 8), classes=3)
    n = len(setting.x)
    oracle, budget = GradientOracle(setting.target, n), Sticker(area=0.25, channel=Channel(angle=(0, 0)))
    x_adv = rp2(
        oracle, setting.x, Misclassify(setting.y), budget, steps=20, mask_steps=5, draws=3, rng=rows(0, n)
    )
    changed = (x_adv != setting.x).any(1).flatten(1).sum(1)
    assert (changed <= 16).all()
    assert (changed > 0).all()
    assert (setting.target.predict(x_adv).argmax(1) != setting.y).double().mean() >= 0.75
    assert set(oracle.ledger.gradients.tolist()) == {75}


def test_prints_are_refused():
    setting = linear()
    with pytest.raises(NotApplicable):
        rp2(
            GradientOracle(setting.target, 8),
            setting.x,
            Misclassify(setting.y),
            Print(eps=0.1),
            rng=rows(0, 8),
        )
