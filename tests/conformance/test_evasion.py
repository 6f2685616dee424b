"""Every registered evasion attack keeps every promise, in each of its norms and precisions."""

import pytest

from casemate.core.registry import entries
from conformance.evasion import Check, cases
from conformance.subject import Subject

CASES = [(s, c) for entry in entries("evasion") for s, c in cases(entry)]


@pytest.mark.parametrize(("subject", "check"), CASES, ids=[f"{s}-{c.__name__}" for s, c in CASES])
def test_evasion(subject: Subject, check: Check) -> None:
    check(subject)
