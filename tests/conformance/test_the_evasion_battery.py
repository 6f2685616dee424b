"""The battery passes what is right and catches what is broken: tests of the tests."""

import pytest

from casemate.core.registry import Entry
from conformance import toys
from conformance.broken import BROKEN
from conformance.evasion import CHECKS, DTYPES, Check, subjects
from conformance.subject import Subject

RIGHT = [(s, c) for e in toys.CORRECT for s in subjects(e) for c in CHECKS if s.dtype in DTYPES[c]]
WRONG = [(e, c) for c, broken in BROKEN.items() for e in broken]


def name(value: object) -> str:
    return value.name if isinstance(value, Entry) else getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("subject", "check"), RIGHT, ids=name)
def test_a_correct_method_passes(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.parametrize(("entry", "check"), WRONG, ids=name)
def test_a_broken_method_fails(entry: Entry, check: Check) -> None:
    """In every norm and precision in which the promise is checked."""
    for subject in subjects(entry):
        if subject.dtype in DTYPES[check]:
            with pytest.raises((AssertionError, Exception, pytest.fail.Exception)):
                check(subject)


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert set(BROKEN) == set(CHECKS)
