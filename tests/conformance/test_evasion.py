"""Every registered evasion attack keeps every promise, in each of its norms and precisions."""

import pytest

from casemate.core.registry import entries
from conformance.evasion import CHECKS, DTYPES, Check, subjects
from conformance.subject import Subject

CASES = [
    pytest.param(subject, check, id=f"{subject}-{check.__name__}")
    for entry in entries("evasion")
    for subject in subjects(entry)
    for check in CHECKS
    if subject.dtype in DTYPES[check]
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_evasion(subject: Subject, check: Check) -> None:
    check(subject)
