"""Promises of evasion attacks: how they are listed, and what several of them ask.

A check takes a subject and fails by an assertion or by the method's own exception. Checks whose
promise does not depend on precision run in float64 only, where rows can be compared closely.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry
from casemate.ops.norms import random_in_ball
from casemate.ops.rng import rows as row_streams
from conformance.models import Setting
from conformance.subject import EPS, Attacked, Subject, distance, in_box, room

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


def agree(s: Subject, setting: Setting, x_adv: Tensor, expected: Tensor) -> None:
    """Assert the same outcome for each row, and nearly the same tensors."""
    assert torch.equal(s.fooled(setting, x_adv), s.fooled(setting, expected))
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-6)


def noise_hits(s: Subject, setting: Setting, eps: float | None = None) -> int:
    """Rows that one draw from the ball fools, as the least that an attack must achieve."""
    eps = s.eps if eps is None else eps
    rng = row_streams(1, len(setting.x))
    x_adv = (setting.x + random_in_ball(setting.x, s.norm, eps, rng)).clamp(0, 1)
    return int(s.fooled(setting, x_adv, eps=eps).sum())


def applies(s: Subject, setting: Setting) -> bool:
    """Tell whether the method takes such inputs at all."""
    try:
        s.attack(setting)
    except NotApplicable:
        return False
    return True
