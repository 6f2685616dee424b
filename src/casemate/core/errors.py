"""What can go wrong, as a tree.

CasemateError
├── UsageError            wrong argument, file or plan; the command line prints it and exits with 2
│   └── UnknownMethod     no method of that id or name; names the nearest
├── QueryLimitReached     an attack asked for more than its budget
├── NoAnswer              a black box does not answer, or not in the agreed form
├── Cancelled             the caller stopped the work through its tick
└── NotApplicable         a method cannot run on this target; its case is skipped with the reason
"""


class CasemateError(Exception):
    """Root of all errors that casemate raises on purpose."""


class UsageError(CasemateError):
    """Wrong use: says which argument, what was expected and what came, on one line."""


class UnknownMethod(UsageError, LookupError):
    """No method has this id or name."""


class QueryLimitReached(CasemateError):
    """An attack asked for more queries of a row than its budget allows."""


class NoAnswer(CasemateError, ConnectionError):
    """A black box does not answer, or not in the agreed form."""


class Cancelled(CasemateError):
    """The caller stopped the work through its tick."""


class NotApplicable(CasemateError):
    """A method cannot run on this target or data; the message says why."""
