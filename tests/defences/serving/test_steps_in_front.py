import math

import pytest
import torch
from torch import nn

from casemate.core.adaptive import through
from casemate.core.errors import NotApplicable
from casemate.core.registry import entries
from casemate.core.target import Classifier, GradientOracle
from casemate.core.threat import Misclassify
from casemate.defences.serving.bit_depth import BitDepth, bit_depth
from casemate.defences.serving.jpeg import Jpeg, jpeg
from casemate.defences.serving.random_resize import RandomResize
from casemate.defences.serving.total_variation import TotalVariation, total_variation
from casemate.ops.rng import generator, seeded

CPU = torch.device("cpu")


def pictures(n=3, c=1, h=13, w=10):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(0))


def tiny(shape=(1, 13, 10)):
    with seeded(0, CPU):
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3))
    return Classifier(net, 3, shape, mean=(0.5,), std=(0.2,))


def test_bit_depth_rounds_to_the_nearest_level():
    x = torch.tensor([[0.0, 0.16, 0.17, 0.49, 0.51, 1.0]])
    third = 1 / 3
    assert torch.allclose(BitDepth(4)(x), torch.tensor([[0, 0, third, third, 2 * third, 1]]))


def test_a_step_in_front_sees_what_the_net_saw_before():
    """Logits of the defended target are those of the plain one at the rounded input, mean and std included."""
    target, x = tiny(), pictures()
    defended = bit_depth(target, levels=4, rng=generator(0))
    assert torch.equal(defended.predict(x), target.predict(BitDepth(4)(x)))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_the_best_quality_changes_a_picture_by_less_than_two_levels(channels):
    """Its tables are all 1: each coefficient is off by 1/2 at most, and the transform keeps lengths."""
    x = pictures(c=channels)
    out = Jpeg(100)(x)
    assert out.shape == x.shape
    assert float((out - x).square().mean().sqrt()) < 2 / 255


def test_jpeg_keeps_a_grey_picture_whose_brightness_is_a_level():
    """A constant block has one coefficient, 8 (v - 128); at quality 50 it is divided by 16."""
    v = 128 + 2 * 16
    x = torch.full((1, 1, 8, 16), v / 255)
    torch.testing.assert_close(Jpeg(50)(x), x)


def test_the_smooth_rounding_of_jpeg_is_near_and_has_a_gradient():
    x = pictures().requires_grad_()
    layer = Jpeg(50)
    smooth = layer.stand_in(x)
    assert float((smooth - layer(x)).detach().abs().mean()) < 0.05
    (grad,) = torch.autograd.grad(smooth.sum(), x)
    assert grad.flatten(1).any(1).all()


def test_jpeg_refuses_what_is_no_picture():
    with pytest.raises(NotApplicable, match="pictures"):
        jpeg(Classifier(nn.Linear(3, 2), 2, (3,)), rng=generator(0))
    with pytest.raises(NotApplicable, match="pictures"):
        total_variation(Classifier(nn.Linear(3, 2), 2, (3,)), rng=generator(0))


def test_total_variation_of_nothing_dropped_and_hardly_any_weight_is_the_picture():
    x = pictures()
    torch.testing.assert_close(TotalVariation(1.0, 1e-6, 60)(x), x, atol=1e-4, rtol=0)


def test_total_variation_of_a_constant_picture_is_constant():
    """Any mask agrees with the constant, whose variation is zero."""
    x = torch.full((2, 1, 6, 5), 0.3)
    torch.testing.assert_close(TotalVariation(0.5, 0.1, 50)(x), x)


def test_total_variation_of_much_weight_is_the_mean():
    """Beyond the largest dual norm the minimiser is the constant nearest to the data: their mean."""
    x = pictures(h=6, w=6)
    out = TotalVariation(1.0, 10.0, 3000)(x)
    torch.testing.assert_close(out, x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-3, rtol=0)


def test_resizing_by_nothing_is_the_picture():
    torch.testing.assert_close(RandomResize(1.0)(pictures()), pictures())


def test_a_shrunk_picture_lies_inside_on_black():
    """A white picture keeps between 0.5^2 and 1 of its area, wherever it is put."""
    white = torch.ones(50, 1, 24, 24)
    with seeded(0, CPU):
        share = RandomResize(0.5)(white).mean((1, 2, 3))
    assert float(share.min()) > 0.2
    assert float(share.max()) <= 1.0
    assert float(share.max() - share.min()) > 0.3


@pytest.mark.parametrize("entry", entries("serving"), ids=lambda e: e.id)
class TestEveryServingDefence:
    def test_the_target_stays_as_it_is_and_so_do_the_generators(self, entry):
        target, x = tiny(), pictures()
        before, state = target.predict(x), torch.random.get_rng_state()
        defended = entry.run(target, rng=generator(0), **entry.validate({}))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert defended is not target
        assert torch.equal(target.predict(x), before)

    def test_it_answers_for_every_row_alike_under_a_seed(self, entry):
        defended = entry.run(tiny(), rng=generator(0), **entry.validate({}))
        found = []
        for _ in range(2):
            with seeded(1, CPU):
                found.append(defended.predict(pictures()))
        assert torch.equal(*found)
        assert found[0].shape == (3, defended.classes)
        assert defended.predict(pictures()[:0]).shape == (0, defended.classes)

    def test_an_adapted_attack_has_a_gradient(self, entry):
        defended = entry.run(tiny(), rng=generator(0), **entry.validate({}))
        x = pictures()
        with seeded(1, CPU):
            y = defended.predict(x).argmax(1)
            oracle = GradientOracle(through(defended), 3)
            grad = oracle.gradient(x, Misclassify(y), "margin").grad
        assert grad.flatten(1).any(1).all()
