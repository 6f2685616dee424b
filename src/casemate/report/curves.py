"""From the curves of results to charts that share axes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from casemate.assess.result import Curve, Result, Verdict
from casemate.core.threat import Lp, format_eps
from casemate.report import words
from casemate.report.model import Chart, Line
from casemate.report.verdicts import bound

T = TypeVar("T")
MOST_LINES = 6  # what can be told apart by colour and dash together
MOST_POINTS = 240
RATES = (0.001, 0.01, 0.1)


def charts(
    results: Sequence[Result], verdicts: Sequence[Verdict], names: Mapping[str, str]
) -> tuple[Chart, ...]:
    """Draw up all charts: accuracy over eps, damage over the poison rate, ROC, and whatever else came."""
    groups: dict[tuple[str, str, str, str], list[tuple[Result, Curve]]] = {}
    for result in results:
        for name, curve in result.curves.items():
            budget = result.case.budget
            norm = budget.norm if isinstance(budget, Lp) else ""
            groups.setdefault((name, norm, curve.x_label, curve.y_label), []).append((result, curve))
    found = [
        chart
        for (name, norm, _, _), group in groups.items()
        for part in _parts(group, MOST_LINES)
        for chart in [_chart(name, norm, part, names)]
    ]
    found += [
        _verdict_chart(verdict, part)
        for verdict in verdicts
        for part in _parts(verdict.curves.items(), MOST_LINES)
    ]
    return tuple(chart.model_copy(update={"id": f"chart{i}"}) for i, chart in enumerate(found, 1))


def _chart(name: str, norm: str, group: Sequence[tuple[Result, Curve]], names: Mapping[str, str]) -> Chart:
    first, curve = group[0]
    lines = tuple(_line(names[r.key], c) for r, c in group)
    x_label, y_label = _axes(name, norm, curve)
    rows = _table(name, norm, lines, curve)
    x_unit, y_unit = _units(name, curve)
    budget = first.case.budget
    mark = (
        budget.eps if isinstance(budget, Lp) and name == "accuracy_eps" and np.isfinite(budget.eps) else None
    )
    return Chart(
        id="",
        family=first.case.family,
        title=_title(name, norm, curve),
        caption=CAPTIONS.get(name, "The shaded band is the 95% interval."),
        alt=_alt(lines, rows),
        x_label=x_label,
        y_label=y_label,
        x_unit=x_unit,
        y_unit=y_unit,
        lines=lines,
        log=curve.log or name == "roc",
        diagonal=name == "roc",
        mark=mark,
        mark_name=f"budget {format_eps(mark)}" if mark is not None else "",
        columns=("Curve", x_label, y_label, "95% interval"),
        rows=rows,
    )


CAPTIONS = {
    "accuracy_eps": "How much accuracy is left when inputs may be moved this far. The shaded band is the 95% "
    "interval; the dotted line marks the budget of the verdict.",
    "roc": "Hits over false alarms, both axes logarithmic: what counts is the left edge. The dashed diagonal "
    "is guessing; a curve on it has learned nothing.",
}


def _axes(name: str, norm: str, curve: Curve) -> tuple[str, str]:
    """Name the axes in plain words where the curve is known."""
    match name:
        case "accuracy_eps" if norm:
            return f"{words.NORMS[norm]} size of the change", "accuracy under attack"
        case "roc":
            return "false-alarm rate", "training rows recognised"
    return curve.x_label, curve.y_label


def _title(name: str, norm: str, curve: Curve) -> str:
    match name:
        case "accuracy_eps":
            return f"Accuracy over the size of the change, {words.NORMS.get(norm, norm)}"
        case "roc":
            return "Who was in the training data: hits over false alarms"
    return f"{curve.y_label[:1].upper()}{curve.y_label[1:]} over {curve.x_label}"


def _units(name: str, curve: Curve) -> tuple[words.Unit, words.Unit]:
    """Guess the units of the axes from their labels and values."""
    shares = name == "roc" or curve.x_label.startswith("share")
    bounded = all(-1 <= y <= 1 for y in curve.y if np.isfinite(y))
    return "share" if shares else "plain", "share" if bounded else "plain"


def _verdict_chart(verdict: Verdict, named: Sequence[tuple[str, Curve]]) -> Chart:
    """Draw the curves of a verdict, which share their axes."""
    curve = named[0][1]
    lines = tuple(_line(name, c) for name, c in named)
    kind = words.metric(verdict.metric)
    own = curve.y_label == verdict.metric.replace("_", " ")
    y_label = f"{kind.title[:1].lower()}{kind.title[1:]}" if own else curve.y_label
    level, at_least = bound(verdict.requirement) if own else (None, False)
    asked = (
        f"; the dotted line marks what is required, at {'least' if at_least else 'most'} {100 * level:g}%"
        if level is not None
        else ""
    )
    rows = _table("", "", lines, curve)
    x_unit, y_unit = _units("", curve)
    return Chart(
        id="",
        family=verdict.family,
        title=f"{verdict.title}: {y_label}",
        caption=f"The shaded band is the 95% interval{asked}.",
        alt=_alt(lines, rows),
        x_label=curve.x_label,
        y_label=y_label,
        x_unit=x_unit,
        y_unit=y_unit,
        lines=lines,
        log=curve.log,
        level=level,
        columns=("Curve", curve.x_label, y_label, "95% interval"),
        rows=rows,
    )


def _line(name: str, curve: Curve) -> Line:
    """Thin a curve to what a screen can show, keeping its ends; points that are not numbers go."""
    banded = len(curve.low) == len(curve.high) == len(curve.x)
    keep = [
        i for i, (x, y) in enumerate(zip(curve.x, curve.y, strict=False)) if np.isfinite(x) and np.isfinite(y)
    ]
    if len(keep) > MOST_POINTS:
        keep = [keep[i] for i in sorted(_spread(curve, keep))]
    return Line(
        name=name,
        x=tuple(curve.x[i] for i in keep),
        y=tuple(curve.y[i] for i in keep),
        low=tuple(curve.low[i] for i in keep) if banded else (),
        high=tuple(curve.high[i] for i in keep) if banded else (),
    )


def _spread(curve: Curve, keep: Sequence[int]) -> set[int]:
    """Choose points at even distances along x, on a log axis along log x, so that the left edge stays.

    Of points with the same x, as an ROC has them at zero, the last one counts.
    """
    x = np.asarray([curve.x[i] for i in keep])
    if curve.log:
        x = np.log10(np.maximum(x, x[x > 0].min(initial=1.0) / 2))
    wanted = np.linspace(x[0], x[-1], MOST_POINTS)
    return {0, len(keep) - 1, *np.clip(np.searchsorted(x, wanted, side="right") - 1, 0, None).tolist()}


def _table(name: str, norm: str, lines: Sequence[Line], curve: Curve) -> tuple[tuple[str, ...], ...]:
    """Values of each line at a few places, for readers who do not see the picture."""
    rows = [(line.name, *cells) for line in lines for cells in _cells(name, norm, line, *_units(name, curve))]
    return tuple(rows)


def _cells(
    name: str, norm: str, line: Line, x_unit: words.Unit, y_unit: words.Unit
) -> Iterator[tuple[str, str, str]]:
    x = np.asarray(line.x)
    if not len(x):
        return
    if name == "roc":
        picks = [int(np.searchsorted(x, rate + 1e-12, side="right")) - 1 for rate in RATES]
    else:
        picks = sorted(set(np.linspace(0, len(x) - 1, min(len(x), 7)).round().astype(int).tolist()))
    for place, i in enumerate(picks):
        if i < 0:
            continue
        at = RATES[place] if name == "roc" else line.x[i]
        exact = f"{100 * at:g}%" if x_unit == "share" else words.number(at, x_unit)
        band = (
            f"{words.number(line.low[i], y_unit)} to {words.number(line.high[i], y_unit)}" if line.low else ""
        )
        yield format_eps(at) if norm == "linf" else exact, words.number(line.y[i], y_unit), band


def _alt(lines: Sequence[Line], rows: Sequence[tuple[str, ...]]) -> str:
    """Say in words what the picture shows: where each line starts and ends."""
    parts = []
    for line in lines:
        own = [row for row in rows if row[0] == line.name]
        if own:
            parts.append(f"{line.name}: {own[0][2]} at {own[0][1]}, {own[-1][2]} at {own[-1][1]}")
    return "Line chart. " + "; ".join(parts) + "." if parts else "Line chart without points."


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
