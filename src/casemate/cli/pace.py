"""How long a list of cases will take, from what the finished ones took."""

from collections.abc import Callable, Sequence

from casemate.report.words import duration

KEPT = "(kept)"  # ends the title of a case that is answered from the folder
SOON = 5.0  # seconds of work before which no time left is told
LITTLE = (
    0.01  # and share of the work: before it, what was spent was mostly on crafting, which steps do not count
)
# how long a case takes beside another, roughly: those that train victims or shadow models take tens of seconds
TRAINS = ("poisoning", "backdoor", "targeted", "membership")
LONG = 20


class Pace:
    """Time left, from what the finished cases took; long kinds of cases count more, kept ones not at all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun: float | None = None
        self._total = self._done = self._now = 0

    def plan(self, cases: Sequence[str]) -> None:
        """Learn the titles of the cases to come."""
        self._total += sum(map(_weight, cases))

    def start(self, title: str) -> None:
        """Learn that a case begins."""
        kept = title.endswith(KEPT)
        self._now = 0 if kept else _weight(title)
        self._total -= _weight(title) if kept else 0
        if self._begun is None and not kept:
            self._begun = self._clock()

    def finish(self) -> None:
        """Learn that the case has ended."""
        self._done, self._now = self._done + self._now, 0

    def left(self, part: float = 0.0) -> str:
        """Say how long the rest takes, where `part` of the case is done; empty while nobody can know."""
        spent = 0.0 if self._begun is None else self._clock() - self._begun
        share = (self._done + part * self._now) / max(1, self._total)
        return (
            f"about {duration(spent * (1 - share) / share)} left"
            if spent >= SOON and LITTLE <= share < 1
            else ""
        )


def _weight(title: str) -> int:
    return LONG if title.partition(".")[0] in TRAINS else 1
