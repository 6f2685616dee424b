"""One judge per family: runs a case and measures what came of it."""

from importlib import import_module

from casemate.assess.bench import Measure


def judge_of(family: str) -> Measure:
    """Find the judge of a family."""
    judge: Measure = import_module(f"casemate.assess.families.{family}").measure
    return judge
