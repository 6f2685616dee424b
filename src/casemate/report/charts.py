"""From charts and verdicts to inline SVG, drawn by matplotlib and coloured by the page's style sheet."""

import io
import math
import re
import threading
from collections.abc import Callable, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from casemate.report.model import Chart, Line, Number, VerdictView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# colours that stand for the style sheet's variables until the SVG is written
INK, SOFT, GRID, LINE = "#010001", "#020002", "#030003", "#040004"
SERIES = tuple(f"#05{i:02x}05" for i in range(1, 7))
VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--grid", LINE: "--line"} | {
    colour: f"--s{i}" for i, colour in enumerate(SERIES, 1)
}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)), (0, (8, 2)))
SMALL = 0.3  # highest share up to which an axis ends above it instead of at 100%
MARKERS = ("o", "s", "^", "D", "v", "P")
_LOCK = threading.Lock()  # matplotlib's settings are global while a picture is written


def svg(chart: Chart) -> str:
    """Draw a chart as an inline SVG of about 340 units width."""
    legend = len(chart.lines) > 1
    return _write(
        chart.id, 3.5, 2.55 + (0.2 * len(chart.lines) if legend else 0), lambda f: _draw(f, chart, legend)
    )


def _draw(figure: "Figure", chart: Chart, legend: bool) -> None:
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for i, line in enumerate(chart.lines):
        _curve(axes, line, i, chart)
    if chart.diagonal:
        axes.plot([_floor(chart), 1], [_floor(chart), 1], color=SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
    if chart.mark is not None:
        axes.axvline(chart.mark, color=INK, lw=1, ls=":")
        axes.annotate(
            chart.mark_name, (chart.mark, 1), (0, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", fontsize=8, color=SOFT,
        )  # fmt: skip
    if chart.level is not None:
        axes.axhline(chart.level, color=INK, lw=1, ls=":")
    if chart.log:
        _log_axes(axes, chart)
    else:
        _plain_axes(axes, chart)
    axes.set_xlabel(fill(chart.x_label, 46), color=INK, fontsize=9, parse_math=False)
    axes.set_ylabel(fill(chart.y_label, 30), color=INK, fontsize=9, parse_math=False)
    axes.tick_params(colors=SOFT, labelcolor=SOFT, labelsize=8, width=0.6, length=3)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=LINE, linewidth=0.8)
    if legend:
        box = figure.legend(
            loc="outside lower left",
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            handlelength=3.2,
            borderpad=0.1,
        )
        for text in box.get_texts():
            text.set_parse_math(False)


def _curve(axes: "Axes", line: Line, i: int, chart: Chart) -> None:
    """Draw one curve with its band; colour, dash and marker all tell it from the others."""
    colour = SERIES[i % len(SERIES)]
    x, y = np.asarray(line.x), np.asarray(line.y)
    lowest = _floor(chart) if chart.log else -np.inf
    x, y = np.clip(x, lowest, None), np.clip(y, lowest, None)
    if line.low and line.high:
        low, high = (np.clip(v, lowest, None) for v in (line.low, line.high))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
    every = max(1, len(x) // 6)
    axes.plot(
        x, y, color=colour, lw=1.7, ls=DASHES[i % len(DASHES)], label=line.name, marker=MARKERS[i % len(MARKERS)],
        ms=4, markevery=(i * every // 6, every), drawstyle="steps-post" if chart.diagonal else "default",
        clip_on=chart.log,
    )  # fmt: skip


def _floor(chart: Chart) -> float:
    """Lower end of logarithmic axes: the power of ten below the smallest positive value, so that zeros show."""
    values = [v for line in chart.lines for v in (*line.x, *line.y) if v > 0]
    smallest = float(10.0 ** math.floor(math.log10(min(values, default=1e-3))))
    return min(1e-2, max(1e-4, smallest)) if chart.diagonal else smallest


def _plain_axes(axes: "Axes", chart: Chart) -> None:
    if chart.y_unit == "share":
        shown = [v for line in chart.lines for v in (*line.y, *line.low, *line.high)] + [chart.level or 0.0]
        axes.set_ylim(*span(shown))
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.3g}%")
    if chart.x_unit == "share":
        axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g}%")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlim(left=0)


def span(shares: Sequence[float]) -> tuple[float, float]:
    """Choose the ends of an axis of shares: effects of a few points would lie flat on a scale of all hundred."""
    known = [value for value in shares if math.isfinite(value)] or [0.0]
    lowest, highest = max(min(known), -1.0), min(max(known), 1.0)
    if highest > SMALL:
        return min(0.0, math.floor(10 * lowest) / 10), 1.02
    return min(0.0, math.floor(50 * lowest) / 50), math.ceil(50 * highest + 0.1) / 50


def _log_axes(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set(xscale="log", yscale="log")
    if chart.diagonal:
        axes.set(xlim=(_floor(chart), 1), ylim=(_floor(chart), 1.1))
    for axis, share in ((axes.xaxis, chart.x_unit == "share"), (axes.yaxis, chart.y_unit == "share")):
        axis.set_minor_locator(NullLocator())
        if share:
            axis.set_major_locator(FixedLocator([1e-4, 1e-3, 1e-2, 1e-1, 1]))
            axis.set_major_formatter(lambda v, _: f"{100 * v:g}%")
        else:
            axis.set_major_formatter(lambda v, _: f"{v:g}")


def strip(verdict: VerdictView, identity: str) -> str:
    """Draw a verdict's numbers on one scale from 0 to 100%; empty where they are no shares."""
    if verdict.measured is None or not verdict.on_scale:
        return ""
    return _write(identity, 2.6, 0.44, lambda f: _scale(f, verdict))


def _scale(figure: "Figure", verdict: VerdictView) -> None:
    axes = figure.add_axes((0.05, 0.36, 0.87, 0.6))
    axes.set(xlim=(0, 1), ylim=(-1, 1))
    axes.plot([0, 1], [0, 0], color=LINE, lw=1.2, solid_capstyle="round")
    if verdict.bound is not None:
        side = (verdict.bound, 1.0) if verdict.at_least else (0.0, verdict.bound)
        axes.axvspan(*side, ymin=0.22, ymax=0.78, color=SERIES[0], alpha=0.16, lw=0)
        axes.plot([verdict.bound] * 2, [-0.95, 0.95], color=INK, lw=1.2, clip_on=False)
    if verdict.clean is not None and not verdict.clean_title:
        _dot(axes, verdict.clean, "o", SOFT, filled=False)
    if verdict.baseline is not None:
        _dot(axes, verdict.baseline, "D", SOFT, filled=False)
    measured = verdict.measured
    assert measured is not None
    low, high = max(0.0, measured.low), min(1.0, measured.high)
    axes.plot([low, high], [0, 0], color=INK, lw=3.4, solid_capstyle="butt")
    _dot(axes, measured, "o", INK, filled=True)
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "50%", "100%"])
    axes.tick_params(colors=SOFT, labelcolor=SOFT, labelsize=7.5, length=2, width=0.6, pad=1.5)
    axes.spines[:].set_visible(False)


def _dot(axes: "Axes", at: Number, marker: str, colour: str, *, filled: bool) -> None:
    axes.plot(
        [at.value], [0], marker=marker, color=colour, ms=6.5, mew=1.4, clip_on=False, ls="",
        mfc=colour if filled else "none",
    )  # fmt: skip


def _write(identity: str, width: float, height: float, draw: Callable[["Figure"], None]) -> str:
    """Draw on a new figure and write it as SVG, without touching matplotlib's settings for others."""
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with _LOCK, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": identity, "path.simplify": True})
        figure = Figure(figsize=(width, height), facecolor="none")
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    return _inline(buffer.getvalue(), identity)


def _inline(text: str, identity: str) -> str:
    """Make matplotlib's file fit into a page.

    Drops the prologue, comments, the style element (it would apply to the whole page), names that
    nothing refers to and fonts; makes the other names unique, and lets the page choose the colours.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{identity}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{identity}-", text)
    text = re.sub(
        r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*",
        lambda m: f"font-size: {m[1]}" if m[1] else "",
        text,
    )
    text = re.sub(
        r"#0[0-9a-f]{5}\b", lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], text
    )
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*" height="[^"]*"',
        r'\1 aria-hidden="true" focusable="false"',
        text,
        count=1,
    )
    text = re.sub(r' (xmlns:xlink|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\b(d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    return re.sub(r"<defs>\s*</defs>\n?", "", text).strip()
