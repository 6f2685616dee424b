"""Progress of an assessment: bars in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from casemate.assess.progress import Progress as Watching
from casemate.assess.result import Result
from casemate.cli.pace import KEPT, Pace
from casemate.report.words import duration, interval, metric, number

BEAT = 15.0  # seconds between two plain lines on one case
REDRAW = 0.05  # seconds between two updates of a bar


def summary(result: Result | None) -> str:
    """Say in a few words what came of a case."""
    if result is None:
        return "done"
    if result.status != "done":
        return f"{result.status}: {result.reason}"
    found = result.metrics.get(result.headline)
    if found is None:
        return "done"
    described = metric(result.headline)
    return (
        f"{described.title.lower()} {number(found.value, described.unit)} ({interval(found, described.unit)})"
    )


class Lines:
    """Plain lines: one when a case begins, one when it ends, one now and then in between."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._pace = Pace(clock)
        self._started = self._said = clock()
        self._total = self._done = 0
        self._title = ""

    def plan(self, cases: Sequence[str], /) -> None:
        """Count the cases to come."""
        self._total += len(cases)
        self._pace.plan(cases)

    def start(self, key: str, title: str, /) -> None:
        """Name the case that begins."""
        self._title = title
        self._started = self._said = self._clock()
        self._pace.start(title)
        if not title.endswith(KEPT):
            self._say(self._done + 1, f"{title} ...")

    def step(self, step: int, total: int, values: Mapping[str, float], /) -> None:
        """Say how far the case is, if nothing was said for a while."""
        now = self._clock()
        if now - self._said >= BEAT:
            self._said = now
            self._say(
                self._done + 1, f"{self._title}: step {step} of {total}{self._left(step / max(1, total))}"
            )

    def finish(self, key: str, result: Result | None, /) -> None:
        """Say what came of the case."""
        self._done += 1
        self._pace.finish()
        spent = duration(self._clock() - self._started)
        self._say(self._done, f"{self._title}: {summary(result)}, {spent}{self._left()}")

    def message(self, text: str, /) -> None:
        """Print a line."""
        print(text, file=self._out, flush=True)

    def _say(self, number: int, text: str) -> None:
        self.message(f"[{number}/{max(number, self._total)}] {text}")

    def _left(self, part: float = 0.0) -> str:
        left = self._pace.left(part)
        return f", {left}" if left else ""


class Bars:
    """Two bars with the time left, cases above and steps of the current case below."""

    def __init__(self, bars: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars = bars
        self._clock = clock
        self._pace = Pace(clock)
        self._cases = bars.add_task("cases", total=None)
        self._steps: TaskID | None = None
        self._total = self._done = 0
        self._title = ""
        self._started = self._drawn = clock()

    def plan(self, cases: Sequence[str], /) -> None:
        """Count the cases to come."""
        self._total += len(cases)
        self._pace.plan(cases)
        self._bars.update(self._cases, total=self._total, left=self._pace.left())

    def start(self, key: str, title: str, /) -> None:
        """Show the case that begins."""
        self._title, self._started = title, self._clock()
        self._pace.start(title)
        self._steps = self._bars.add_task(escape(title), total=None)

    def step(self, step: int, total: int, values: Mapping[str, float], /) -> None:
        """Move the bars, but not more often than anybody can see."""
        now = self._clock()
        if self._steps is None or (now - self._drawn < REDRAW and step < total):
            return
        self._drawn = now
        shown = "  ".join(f"{name} {value:.3g}" for name, value in list(values.items())[:2])
        self._bars.update(self._steps, completed=step, total=total, values=shown)
        part = step / max(1, total)
        self._bars.update(self._cases, completed=self._done + part, left=self._pace.left(part))

    def finish(self, key: str, result: Result | None, /) -> None:
        """Leave a line about the case and move on."""
        self._done += 1
        if self._steps is not None:
            self._bars.remove_task(self._steps)
            self._steps = None
        self._pace.finish()
        self._bars.update(self._cases, completed=self._done, left=self._pace.left())
        self.message(f"{self._title}: {summary(result)}, {duration(self._clock() - self._started)}")

    def message(self, text: str, /) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)


@contextmanager
def watching() -> Iterator[Watching]:
    """Show progress on standard error, as bars if that is a terminal."""
    if not sys.stderr.isatty():
        yield Lines(sys.stderr)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Left(),
        TextColumn("{task.fields[values]}"),
    )
    with _Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars)


class _Left(TimeRemainingColumn):
    """Time left as the task's field `left` says it, or where there is none by rich's own estimate."""

    def render(self, task: Task) -> Text:
        """Write the time left of a task."""
        left = task.fields["left"]
        return super().render(task) if left is None else Text(left, style="progress.remaining")


class _Bars(Progress):
    """Bars whose tasks all have the fields `values` and `left`."""

    def add_task(self, description: str, **settings: object) -> TaskID:  # type: ignore[override]
        """Add a task with nothing to show beside it yet."""
        return super().add_task(description, values="", left=None, **settings)  # type: ignore[arg-type]
