"""The battery passes what is right and catches what is broken: tests of the tests."""

import pytest

from casemate.core.registry import Entry
from conformance import toys
from conformance.broken import (
    evasion_classifiers,
    evasion_effort,
    evasion_form,
    evasion_rows,
    evasion_strength,
)
from conformance.broken.evasion import BROKEN
from conformance.evasion import CHECKS, Check, cases
from conformance.subject import Subject

# importing them fills BROKEN
DEFECTS = (evasion_classifiers, evasion_effort, evasion_form, evasion_rows, evasion_strength)
RIGHT = [(s, c) for entry in toys.CORRECT for s, c in cases(entry)]
WRONG = [(e, c) for c, broken in BROKEN.items() for e in broken]


@pytest.mark.parametrize(("subject", "check"), RIGHT, ids=[f"{s}-{c.__name__}" for s, c in RIGHT])
def test_a_correct_method_passes(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.parametrize(("entry", "check"), WRONG, ids=[f"{e.name}-{c.__name__}" for e, c in WRONG])
def test_a_broken_method_fails(entry: Entry, check: Check) -> None:
    """In every norm and precision in which the promise is checked."""
    checked = [subject for subject, c in cases(entry) if c is check]
    assert checked
    for subject in checked:
        with pytest.raises((AssertionError, Exception, pytest.fail.Exception)):
            check(subject)


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert set(BROKEN) == set(CHECKS)
