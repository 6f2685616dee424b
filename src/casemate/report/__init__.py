"""Write a finished assessment as a report; reads the store, computes no result."""

from casemate.report.write import FORMATS, build

__all__ = ["FORMATS", "build"]
