"""Rows do not know one another."""

import math

import torch

from conformance import models
from conformance.evasion.promise import CLOSE, agree, check
from conformance.models import Setting
from conformance.subject import Subject


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
