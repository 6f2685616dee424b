"""Every registered poison and backdoor keeps every promise; the battery catches broken ones."""

import pytest

from casemate.core.registry import Entry, entries
from casemate.core.target import Classifier
from conformance.broken.poisoning import BROKEN, CORRECT
from conformance.poisoning import CHECKS, Check

# who supplies a model poisons no data
METHODS = [e for e in (*entries("poisoning"), *entries("backdoor")) if e.access is not Classifier]
WRONG = [(e, c) for c, broken in BROKEN.items() for e in broken]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)
def test_poisoning(entry: Entry, check: Check) -> None:
    check(entry)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("entry", CORRECT, ids=lambda e: e.name)
def test_a_correct_method_passes(entry: Entry, check: Check) -> None:
    check(entry)


@pytest.mark.parametrize(("entry", "check"), WRONG, ids=[f"{e.name}-{c.__name__}" for e, c in WRONG])
def test_a_broken_method_fails(entry: Entry, check: Check) -> None:
    with pytest.raises((AssertionError, Exception, pytest.fail.Exception)):
        check(entry)


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert set(BROKEN) == set(CHECKS)
