"""Every registered defence keeps every promise; the battery catches broken ones."""

from collections.abc import Callable

import pytest

from casemate.core.registry import Entry, entries
from conformance.broken.defences import BROKEN, CORRECT
from conformance.defences import CHECKS, Check

CASES = [(e, c) for family, checks in CHECKS.items() for e in entries(family) for c in checks]
RIGHT = [(e, c) for e in CORRECT for c in CHECKS[e.family]]
WRONG = [(e, c) for c, broken in BROKEN.items() for e in broken]


def names(cases: list[tuple[Entry, Check]]) -> list[str]:
    return [f"{entry.id}-{check.__name__}" for entry, check in cases]


@pytest.mark.parametrize(("entry", "check"), CASES, ids=names(CASES))
def test_defences(entry: Entry, check: Check, record_property: Callable[[str, object], None]) -> None:
    record_property("measured", check(entry))


@pytest.mark.parametrize(("entry", "check"), RIGHT, ids=names(RIGHT))
def test_a_correct_method_passes(entry: Entry, check: Check) -> None:
    check(entry)


@pytest.mark.parametrize(("entry", "check"), WRONG, ids=names(WRONG))
def test_a_broken_method_fails(entry: Entry, check: Check) -> None:
    with pytest.raises((AssertionError, Exception, pytest.fail.Exception)):
        check(entry)


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert set(BROKEN) == {check for checks in CHECKS.values() for check in checks}
