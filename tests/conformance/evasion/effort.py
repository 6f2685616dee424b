"""What an evasion attack spends, and that it can be limited and stopped."""

import contextlib
from collections.abc import Mapping

import pytest

from casemate.core.errors import Cancelled, QueryLimitReached
from conformance import models
from conformance.bystanders import stop
from conformance.evasion.promise import (
    CLOSE,
    check,
    well_formed,
)
from conformance.subject import Subject, quick


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
