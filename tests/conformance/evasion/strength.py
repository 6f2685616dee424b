"""What an evasion attack achieves at least."""

import math
from itertools import pairwise

import torch

from casemate.core.errors import NotApplicable
from casemate.core.target import Prepared
from casemate.core.threat import Become
from conformance import models
from conformance.evasion.promise import CLOSE, check, noise_hits, well_formed
from conformance.subject import Subject, distance


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
