"""What an evasion attack must keep, one function per promise."""

from conformance.evasion import classifiers, effort, form, rows, strength
from conformance.evasion.promise import CHECKS, Check, cases

__all__ = ["CHECKS", "Check", "cases", "classifiers", "effort", "form", "rows", "strength"]
