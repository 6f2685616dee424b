"""Every classifier can be attacked: any classes, scales, shifts, pixels, and hopeless ones."""

import math

import torch
from torch import Tensor, nn

from casemate.core.target import Classifier
from conformance import models
from conformance.evasion.promise import CLOSE, check, noise_hits, well_formed
from conformance.models import Setting
from conformance.subject import Subject, distance


@check()
def takes_any_number_of_classes(s: Subject) -> None:
    """From 2 to 100 classes, and most rows of an easy model fall (pitfall G4)."""
    for classes in (2, 3, 4, 5, 100):
        setting = models.linear(classes, n=4, dtype=s.dtype)
        done = s.attack(setting)
        well_formed(s, setting, done, s.eps)
        assert int(s.fooled(setting, done.x_adv).sum()) >= noise_hits(s, setting), f"{classes} classes"


@check()
def takes_a_single_class(s: Subject) -> None:
    """With one class there is nothing to win, and nothing to raise (pitfall S3)."""
    setting = models.linear(1, n=3, dtype=s.dtype)
    done = s.attack(setting)
    well_formed(s, setting, done, s.eps)
    assert not s.fooled(setting, done.x_adv).any()


@check()
def does_not_mind_shifted_logits(s: Subject) -> None:
    """The same constant on all logits changes no decision, so no outcome (pitfall G1).

    In float32 logits near 1e4 are rounded to a thousandth, which does change decisions.
    """
    setting = models.linear(dtype=s.dtype)
    plain = s.fooled(setting, s.attack(setting).x_adv)
    for shift in (50.0, -50.0, *((1e4, -1e4) if s.dtype == torch.float64 else ())):
        moved = models.altered(setting, lambda out, shift=shift: out + shift)
        assert torch.equal(s.fooled(moved, s.attack(moved).x_adv), plain), f"shift {shift:g}"


@check()
def does_not_mind_scaled_logits(s: Subject) -> None:
    """A positive factor on the logits changes no decision, so no success is lost (pitfall G2).

    Powers of two (about 1e6 and 1e-6), so that every margin is scaled without rounding. Where a
    loss can be chosen it is the margin on the trained net: cross-entropy of nearly equal logits
    pushes away from the mean of the other classes, which is another attack and not a saturated one.
    """
    margin = {"loss": "margin"} if "loss" in s.entry.params.model_fields else {}
    for setting, params in ((models.linear(dtype=s.dtype), {}), (models.trained(s.dtype)[:6], margin)):
        plain = s.hits(setting, **params)
        for scale in (2.0**20, 2.0**-20):
            scaled = models.altered(setting, lambda out, scale=scale: out * scale)
            assert s.hits(scaled, **params) >= plain, f"scale {scale:g}"


@check(CLOSE)
def reads_probabilities(s: Subject) -> None:
    """A model that returns probabilities and says so is attacked as well as its logits (G3)."""
    setting = models.linear(dtype=s.dtype)
    softmax = models.altered(setting, lambda out: out.softmax(1), "probabilities")
    assert torch.equal(s.fooled(softmax, s.attack(softmax).x_adv), s.fooled(setting, s.attack(setting).x_adv))


@check()
def does_not_mind_where_inputs_are_normalised(s: Subject) -> None:
    """Normalisation inside the net and declared outside give equal answers to the bit (N1)."""
    setting = models.conv(dtype=s.dtype)
    mean, std = (0.4, 0.5), (0.25, 0.3)
    net = setting.target.net
    outside = Classifier(net, 4, models.IMAGE, mean=mean, std=std)
    inside = Classifier(nn.Sequential(Normalise(mean, std), net), 4, models.IMAGE)
    results = []
    for target in (outside, inside):
        own = Setting(target, setting.x, target.predict(setting.x).argmax(1))
        results.append(s.attack(own).x_adv)
    assert torch.equal(*results)


class Normalise(nn.Module):
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, dtype=x.dtype).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


@check()
def attacks_pixels_that_are_exactly_0_or_1(s: Subject) -> None:
    """Black and white images fall about as often as the same images squeezed a little (N6)."""
    setting = models.binary_pixels(s.dtype)
    x = 0.01 + 0.98 * setting.x
    squeezed = Setting(setting.target, x, setting.target.predict(x).argmax(1))
    eps = round(2 * s.eps) if s.norm == "l0" else 2 * s.eps
    expected = s.hits(squeezed, eps=eps)
    assert expected > 0
    assert s.hits(setting, eps=eps) >= expected / 2


@check()
def survives_a_constant_model(s: Subject) -> None:
    """Zero gradients and no success anywhere: the rows stay, nothing is raised (S3)."""
    setting = models.constant(0, s.dtype)
    done = s.attack(setting)
    well_formed(s, setting, done, s.eps)
    assert not s.fooled(setting, done.x_adv).any()


@check()
def keeps_rows_that_are_already_wrong(s: Subject) -> None:
    """What the model gets wrong by itself is wrong after the attack too (pitfall S3)."""
    always = models.constant(1, s.dtype)
    done = s.attack(always)
    well_formed(s, always, done, s.eps)
    assert s.fooled(always, done.x_adv).all()
    setting = models.linear(dtype=s.dtype)
    y = setting.y.clone()
    y[::2] = (y[::2] + 1) % 3
    mixed = Setting(setting.target, setting.x, y)
    done = s.attack(mixed)
    well_formed(s, mixed, done, s.eps)
    assert s.fooled(mixed, done.x_adv)[::2].all()
    if s.entry.minimum_norm:
        assert distance(done.x_adv - mixed.x, s.norm)[::2].eq(0).all(), "the nearest is the row itself"


@check()
def does_not_count_what_is_no_number(s: Subject) -> None:
    """NaN or infinite logits are no success, raise nothing and spoil no result."""
    for value in (math.nan, math.inf):
        everywhere = models.cracked(-1, value, s.dtype)
        done = s.attack(everywhere)
        well_formed(s, everywhere, done, s.eps)
        assert not s.fooled(everywhere, done.x_adv).any()
        beyond = models.cracked(0.7, value, s.dtype)
        well_formed(s, beyond, s.attack(beyond), s.eps)
