"""Human AE: the retina, and the special case without one."""

import torch

from casemate.attacks.evasion.human import gaussian, human, retina
from casemate.core.registry import find
from casemate.core.target import GradientOracle
from casemate.core.threat import Lp, Misclassify, NeverReached
from casemate.ops.rng import rows
from conformance.models import conv


def test_the_middle_is_sharp_and_the_rest_the_blurrier_the_farther():
    """Stripes of one pixel: their contrast is whole in the fovea and falls towards the edge."""
    x = (torch.arange(32) % 2).double().expand(1, 1, 32, 32)
    seen = retina(x, 1.5)
    assert torch.equal(seen[..., 13:19, 13:19], x[..., 13:19, 13:19])
    contrast = [(seen[0, 0, 16, c] - seen[0, 0, 16, c + 1]).abs().item() for c in (15, 22, 27)]
    assert contrast[0] > contrast[1] > contrast[2]
    assert contrast[2] < 0.2


def test_an_even_picture_stays_as_it_is():
    x = torch.full((1, 3, 12, 20), 0.3, dtype=torch.float64)
    torch.testing.assert_close(retina(x, 2.0), x)


def test_a_blur_of_one_pixel_spreads_a_point_by_one_pixel():
    point = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    point[0, 0, 10, 10] = 1
    line = gaussian(point, 1.0)[0, 0].sum(0)
    variance = (line * (torch.arange(21) - 10.0) ** 2).sum()
    assert abs(float(variance) - 1) < 0.03, "cut at three deviations"


def test_without_a_retina_it_is_the_iterative_fgsm():
    setting = conv()
    goal, ball, n = NeverReached(Misclassify(setting.y)), Lp(norm="linf", eps=0.1), len(setting.x)
    found = human(GradientOracle(setting.target, n), setting.x, goal, ball, steps=4, blur=0.0, rng=rows(0, n))
    mi = find("evasion.mi_fgsm")
    params = mi.validate({"steps": 4, "step_size": 0.05, "decay": 0.0})
    expected = mi.run(GradientOracle(setting.target, n), setting.x, goal, ball, rng=rows(0, n), **params)
    torch.testing.assert_close(found, expected)
