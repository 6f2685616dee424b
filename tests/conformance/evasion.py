"""What an evasion attack must keep, one function per promise.

A check takes a subject and fails by an assertion or by the method's own exception. Checks whose
promise does not depend on precision run in float64 only, where rows can be compared closely.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from casemate.core.errors import Cancelled, NotApplicable, QueryLimitReached
from casemate.core.registry import Entry
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Become
from casemate.ops.norms import random_in_ball
from casemate.ops.rng import rows as row_streams
from conformance import models
from conformance.bystanders import stop, untouched
from conformance.models import Setting
from conformance.subject import EPS, Attacked, Subject, distance, in_box, quick, room

Check = Callable[[Subject], None]
BOTH = (torch.float32, torch.float64)
# float64 only: two runs that should agree are compared closely
CLOSE = (torch.float64,)


@dataclass(frozen=True)
class Promise:
    """When a check applies: in these precisions, to these methods."""

    dtypes: tuple[torch.dtype, ...]
    only: Callable[[Subject], bool]


CHECKS: dict[Check, Promise] = {}


def check(
    dtypes: tuple[torch.dtype, ...] = BOTH, only: Callable[[Subject], bool] = lambda s: True
) -> Callable[[Check], Check]:
    """Add a promise to the battery."""

    def keep(function: Check) -> Check:
        CHECKS[function] = Promise(dtypes, only)
        return function

    return keep


def cases(entry: Entry) -> list[tuple[Subject, Check]]:
    """List what must be checked of a method: each norm, precision and promise that applies."""
    subjects = [Subject(entry, norm, dtype) for norm in EPS if norm in entry.norms for dtype in BOTH]
    return [
        (s, c)
        for s in subjects
        for c, promise in CHECKS.items()
        if s.dtype in promise.dtypes and promise.only(s)
    ]


def well_formed(subject: Subject, setting: Setting, done: Attacked, eps: float) -> None:
    """Assert that a result may stand: in the ball, in the box, in the form of the input."""
    x, x_adv = setting.x, done.x_adv
    assert (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, x.dtype, x.device)
    assert x_adv.isfinite().all(), "values that are no numbers"
    assert in_box(x_adv).all(), f"outside [0, 1]: {x_adv.min()} .. {x_adv.max()}"
    sizes = distance(x_adv - x, subject.norm)
    assert (sizes <= room(x, subject.norm, eps)).all(), f"size {sizes.max()} outside the ball of {eps}"


# --- what must not change -------------------------------------------------------------------------


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


# --- ball, box and form ---------------------------------------------------------------------------


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


# --- rows do not know one another -----------------------------------------------------------------


def agree(s: Subject, setting: Setting, x_adv: Tensor, expected: Tensor) -> None:
    """Assert the same outcome for each row, and nearly the same tensors."""
    assert torch.equal(s.fooled(setting, x_adv), s.fooled(setting, expected))
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-6)


@check(CLOSE)
def attacks_a_row_alone_as_in_a_batch(s: Subject) -> None:
    """With the same stream, a row's answer does not depend on its neighbours (pitfall S2)."""
    for setting in (models.conv(dtype=s.dtype), models.linear(dtype=s.dtype)):
        together = s.attack(setting).x_adv
        for i in range(len(setting.x)):
            row = setting[i : i + 1]
            agree(s, row, s.attack(row, rows=[i]).x_adv, together[i : i + 1])


@check(CLOSE)
def permutes_with_its_rows(s: Subject) -> None:
    setting = models.conv(dtype=s.dtype)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    x_adv = s.attack(setting[order], rows=order.tolist()).x_adv
    agree(s, setting[order], x_adv, s.attack(setting).x_adv[order])


@check(CLOSE)
def does_not_mind_how_rows_are_split(s: Subject) -> None:
    setting = models.conv(dtype=s.dtype)
    parts = [s.attack(setting[i : i + 2], rows=[i, i + 1]).x_adv for i in (0, 2, 4)]
    agree(s, setting, torch.cat(parts), s.attack(setting).x_adv)


@check(CLOSE)
def does_not_spread_a_bad_row(s: Subject) -> None:
    """A row on which the model breaks down leaves its neighbours' answers as they are (S3)."""
    setting = models.cracked(0.9, math.nan, s.dtype)
    rows = setting.x.clone()
    rows[2].flatten()[0] = 1.0
    broken = s.attack(Setting(setting.target, rows, setting.y)).x_adv
    keep = torch.arange(len(rows)) != 2
    alone = s.attack(setting[keep], rows=keep.nonzero().flatten().tolist()).x_adv
    torch.testing.assert_close(broken[keep], alone, rtol=0, atol=1e-6, equal_nan=True)


# --- every classifier -----------------------------------------------------------------------------


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


@check(CLOSE)
def does_not_mind_shifted_logits(s: Subject) -> None:
    """The same constant on all logits changes no decision, so no outcome (pitfall G1)."""
    setting = models.linear(dtype=s.dtype)
    plain = s.fooled(setting, s.attack(setting).x_adv)
    for shift in (50.0, -50.0, 1e4, -1e4):
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


# --- cost, limits, cancelling ---------------------------------------------------------------------


@check()
def spends_what_it_declares(s: Subject) -> None:
    """On a model that is never fooled, each row costs what the method declares (pitfall G7)."""
    assert s.entry.cost is not None
    for classes in (2, 5, 12):
        setting = models.never_fooled(dtype=s.dtype, classes=classes)
        params = quick(s.entry)
        declared = s.entry.cost(s.entry.params.model_validate(params), classes)
        ledger = s.attack(setting, limit=None if s.white_box else 10**6, **params).ledger
        spent = list(zip(ledger.queries.tolist(), ledger.gradients.tolist(), strict=True))
        if declared.exact:
            assert spent == [(declared.queries, declared.gradients)] * 4
        assert all(q <= declared.queries and g <= declared.gradients for q, g in spent), (
            f"{spent} > {declared}"
        )


@check()
def respects_a_limit_of_queries(s: Subject) -> None:
    """However few queries are allowed, a black-box method makes do with them.

    A white-box method, whose passes its parameters fix, may be stopped by its oracle instead.
    """
    for limit in (1, 2, 7, 40):
        for setting in (models.linear(dtype=s.dtype), models.never_fooled(dtype=s.dtype)):
            with contextlib.suppress(*([QueryLimitReached] if s.white_box else [])):
                done = s.attack(setting, limit=limit)
                assert int(done.ledger.queries.max()) <= limit
                well_formed(s, setting, done, s.eps)


@check()
def stops_when_a_tick_raises(s: Subject) -> None:
    """The caller's exception comes out as it is, so that work can be cancelled."""
    with pytest.raises(Cancelled, match="enough"):
        s.attack(models.never_fooled(dtype=s.dtype), tick=stop)


@check(CLOSE)
def ticks_in_order(s: Subject) -> None:
    seen: list[tuple[int, int]] = []
    numbers: list[float] = []

    def tick(step: int, total: int, values: Mapping[str, float], /) -> None:
        seen.append((step, total))
        numbers.extend(values.values())

    s.attack(models.never_fooled(dtype=s.dtype), tick=tick)
    assert seen
    assert all(1 <= step <= total for step, total in seen), seen
    assert [step for step, _ in seen] == sorted({step for step, _ in seen}), "steps go up"
    assert all(type(value) is float or type(value) is int for value in numbers), "plain numbers"


# --- strength -------------------------------------------------------------------------------------


def noise_hits(s: Subject, setting: Setting, eps: float | None = None) -> int:
    """Rows that one draw from the ball fools, as the least that an attack must achieve."""
    eps = s.eps if eps is None else eps
    rng = row_streams(1, len(setting.x))
    x_adv = (setting.x + random_in_ball(setting.x, s.norm, eps, rng)).clamp(0, 1)
    return int(s.fooled(setting, x_adv, eps=eps).sum())


@check()
def beats_noise_of_the_same_size(s: Subject) -> None:
    setting = models.trained(s.dtype)
    for factor in (1, 2, 4):
        eps = s.eps * factor
        by_noise = noise_hits(s, setting, eps)
        assert s.hits(setting, eps=eps) >= by_noise, f"radius {eps:g}"
    assert by_noise > 0, "noise that fools nothing proves nothing"


@check()
def does_not_weaken_as_the_ball_grows(s: Subject) -> None:
    """On a linear model a larger ball never loses a row (pitfall S6)."""
    setting = models.linear(dtype=s.dtype)
    radii = (1, 2, 4, 8) if s.norm == "l0" else tuple(s.eps * f for f in (0.25, 0.5, 1, 2))
    hits = [s.hits(setting, eps=eps) for eps in radii]
    # searches without gradients start elsewhere in another ball
    slack = 0 if s.white_box else 1
    assert all(later >= earlier - slack for earlier, later in pairwise(hits)), hits


@check(CLOSE, only=lambda s: "steps" in s.entry.params.model_fields)
def does_not_weaken_with_more_steps(s: Subject) -> None:
    """The best point found is returned, so more steps on a linear model lose no row (S6)."""
    setting = models.linear(dtype=s.dtype)
    few, many = (s.hits(setting, steps=steps) for steps in (5, 20))
    assert many >= few


@check()
def fools_an_easy_model(s: Subject) -> None:
    """In a ball that holds half the box every row of a linear model falls to gradients."""
    setting = models.linear(dtype=s.dtype)
    eps = {"linf": 0.5, "l2": 2.0, "l1": 8.0, "l0": 16}[s.norm]
    hits = s.hits(setting, eps=eps)
    assert hits == len(setting.x) if s.white_box else hits > 0


@check()
def grants_a_target_class(s: Subject) -> None:
    """Rows become what the goal names, or the method says that it cannot (pitfall G5)."""
    setting = models.linear(dtype=s.dtype)
    goal = Become((setting.y + 1) % 3)
    try:
        done = s.attack(setting, goal, eps=2 * s.eps)
    except NotApplicable:
        return
    well_formed(s, setting, done, 2 * s.eps)
    hits = int(s.fooled(setting, done.x_adv, goal, 2 * s.eps).sum())
    assert hits >= len(setting.x) - 1 if s.white_box else hits >= 1


@check(CLOSE, only=lambda s: s.entry.minimum_norm and s.white_box and s.norm in ("linf", "l2"))
def finds_the_nearest_of_a_linear_model(s: Subject) -> None:
    """Minimum-norm attacks come within a tenth of the distance |margin| / dual norm (pitfall G5)."""
    setting = models.linear(2, dtype=s.dtype)
    weight = (setting.target.net.weight[0] - setting.target.net.weight[1]).detach()
    margin = (setting.target.predict(setting.x) @ setting.x.new_tensor([1, -1])).abs()
    nearest = margin / (weight.abs().sum() if s.norm == "linf" else weight.norm())
    defaults = s.entry.validate({})
    done = s.attack(setting, eps=math.inf, **defaults)
    well_formed(s, setting, done, math.inf)
    assert s.fooled(setting, done.x_adv, eps=math.inf).all()
    sizes = distance(done.x_adv - setting.x, s.norm)
    assert (sizes >= nearest * (1 - 1e-9)).all(), "nearer than the closed form: the test is wrong"
    assert (sizes <= nearest * 1.1).all(), (sizes / nearest).tolist()


@check((torch.float32,), only=lambda s: s.white_box)
def keeps_its_successes_with_cheap_gradients(s: Subject) -> None:
    """With bfloat16 gradients a success counts only where float32 agrees."""
    setting = models.linear(dtype=s.dtype)
    prepared = Prepared(setting.target)
    prepared.cheap = Prepared(setting.target).net.bfloat16()
    assert s.hits(setting, prepared=prepared) >= s.hits(setting) - 1


def applies(s: Subject, setting: Setting) -> bool:
    """Tell whether the method takes such inputs at all."""
    try:
        s.attack(setting)
    except NotApplicable:
        return False
    return True
