"""What an assessment tells whoever watches it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from casemate.assess.result import Result


class Progress(Protocol):
    """Watches a list of cases; `step` is a tick (see `core.tick`) and may raise to stop the work."""

    def plan(self, cases: Sequence[str], /) -> None:
        """Learn the titles of the cases to come; a second call appends."""

    def start(self, key: str, title: str, /) -> None:
        """Learn that a case begins."""

    def step(self, step: int, total: int, values: Mapping[str, float], /) -> None:
        """Learn that `step` of `total` steps of the case are done, with current values by name."""

    def finish(self, key: str, result: Result | None, /) -> None:
        """Learn that a case has ended; None where there is no result to show."""

    def message(self, text: str, /) -> None:
        """Learn one line worth telling."""


class Silent:
    """Watches and says nothing."""

    def plan(self, cases: Sequence[str], /) -> None:
        """Ignore the titles."""

    def start(self, key: str, title: str, /) -> None:
        """Ignore the beginning."""

    def step(self, step: int, total: int, values: Mapping[str, float], /) -> None:
        """Ignore the step."""

    def finish(self, key: str, result: Result | None, /) -> None:
        """Ignore the end."""

    def message(self, text: str, /) -> None:
        """Ignore the line."""


silent = Silent()
