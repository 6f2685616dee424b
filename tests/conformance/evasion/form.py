"""What an evasion attack leaves alone, and the form of what it returns."""

import contextlib

import torch

from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.target import Prepared
from conformance import models
from conformance.bystanders import stop, untouched
from conformance.evasion.promise import (
    CLOSE,
    applies,
    check,
    well_formed,
)
from conformance.models import Setting
from conformance.subject import Subject


@check()
def leaves_its_input_alone(s: Subject) -> None:
    setting = models.linear(dtype=s.dtype)
    before, labels = setting.x.clone(), setting.y.clone()
    s.attack(setting)
    assert torch.equal(setting.x, before)
    assert torch.equal(setting.y, labels)


@check()
def leaves_the_model_alone(s: Subject) -> None:
    """Modes, weights, statistics, gradients, hooks: also when a tick raises (pitfall S1)."""
    setting = models.in_training(s.dtype)
    prepared = Prepared(setting.target)
    users, own = models.state(setting.target.net), models.state(prepared.net)
    s.attack(setting, prepared=prepared)
    assert models.state(setting.target.net) == users
    assert models.state(prepared.net) == own, "the private copy changed"
    with contextlib.suppress(Cancelled):
        s.attack(setting, prepared=prepared, tick=stop)
    assert models.state(setting.target.net) == users, "changed after a tick that raised"
    assert models.state(prepared.net) == own, "the private copy changed after a tick that raised"


@check()
def treats_a_training_model_as_in_use(s: Subject) -> None:
    """Dropout and batch statistics are off: the answer is that of the model in evaluation mode."""
    training, used = models.in_training(s.dtype), models.conv(dtype=s.dtype)
    assert torch.equal(s.attack(training).x_adv, s.attack(used).x_adv)


@check(CLOSE)
def leaves_global_state_alone(s: Subject) -> None:
    """Nothing is drawn from torch's, numpy's or python's generators, and nothing is printed."""
    with untouched():
        s.attack(models.in_training(s.dtype))


@check(CLOSE)
def repeats_itself(s: Subject) -> None:
    """The answer follows from the rows' streams, whatever the global generators say."""
    setting = models.conv(dtype=s.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = s.attack(setting).x_adv
        torch.manual_seed(2)
        second = s.attack(setting).x_adv
    assert torch.equal(first, second)


@check()
def stays_in_ball_and_box(s: Subject) -> None:
    """At small and large radii, also where the input touches the box (pitfalls N4, N5)."""
    for setting in (models.conv(dtype=s.dtype), models.binary_pixels(s.dtype)):
        for factor in (0.25, 1, 5):
            eps = round(s.eps * factor) if s.norm == "l0" else s.eps * factor
            well_formed(s, setting, s.attack(setting, eps=eps), eps)


@check()
def fits_a_tight_ball(s: Subject) -> None:
    """A radius near the rounding of float32 images is kept as well."""
    setting = models.mlp(dtype=s.dtype)
    eps = 1 if s.norm == "l0" else 1e-5
    if applies(s, setting):
        well_formed(s, setting, s.attack(setting, eps=eps), eps)


@check()
def returns_a_plain_tensor(s: Subject) -> None:
    """No graph hangs on the result, and writing into it does not write into the input."""
    for setting in (models.linear(dtype=s.dtype), models.constant(0, s.dtype), models.constant(1, s.dtype)):
        x_adv = s.attack(setting).x_adv
        assert not x_adv.requires_grad
        assert x_adv.grad_fn is None
        assert x_adv.data_ptr() != setting.x.data_ptr(), "the result is the caller's own tensor"


@check()
def changes_nothing_without_a_budget(s: Subject) -> None:
    setting = models.linear(dtype=s.dtype)
    assert torch.equal(s.attack(setting, eps=0).x_adv, setting.x)


@check()
def takes_an_empty_batch(s: Subject) -> None:
    empty = models.linear(dtype=s.dtype)[:0]
    well_formed(s, empty, s.attack(empty), s.eps)


@check(CLOSE)
def takes_any_shape(s: Subject) -> None:
    """Tables, sequences, pictures of one pixel: attacked, or refused with NotApplicable."""
    for shape in ((1,), (7,), (3, 4), (1, 1, 1), (3, 2, 7)):
        setting = models.linear(shape=shape, n=3, dtype=s.dtype)
        with contextlib.suppress(NotApplicable):
            well_formed(s, setting, s.attack(setting), s.eps)


@check(CLOSE)
def takes_any_layout(s: Subject) -> None:
    """Channels-last and strided inputs give the same answer."""
    setting = models.conv(dtype=s.dtype)
    expected = s.attack(setting).x_adv
    strided = torch.stack([setting.x, setting.x], -1)[..., 0]
    for x in (setting.x.contiguous(memory_format=torch.channels_last), strided):
        x_adv = s.attack(Setting(setting.target, x, setting.y)).x_adv
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-6)
