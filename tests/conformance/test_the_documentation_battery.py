"""The checks of descriptions pass what is right and catch what is missing."""

from dataclasses import replace

import pytest

from casemate.core.registry import Entry
from conformance.broken.documentation import BROKEN, CORRECT
from conformance.documentation import CHECKS, Check, calls_nothing_forbidden, shared_names

WRONG = [(e, c) for c, broken in BROKEN.items() for e in broken]


@pytest.mark.parametrize(
    "check", [c for c in CHECKS if c is not calls_nothing_forbidden], ids=lambda c: c.__name__
)
def test_a_correct_method_passes(check: Check) -> None:
    check(CORRECT)


@pytest.mark.parametrize(("entry", "check"), WRONG, ids=[f"{e.name}-{c.__name__}" for e, c in WRONG])
def test_a_broken_method_fails(entry: Entry, check: Check) -> None:
    with pytest.raises((AssertionError, Exception)):
        check(entry)


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert set(BROKEN) == set(CHECKS)


def test_shared_names_are_found_however_they_are_written() -> None:
    first, second = (
        replace(CORRECT, known_as=("MI-FGSM",)),
        replace(CORRECT, name="other", known_as=("mi fgsm",)),
    )
    assert shared_names([first, second]) == ["mifgsm"]
    assert shared_names([first, replace(second, known_as=())]) == []
