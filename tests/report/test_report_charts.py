"""Charts leave matplotlib as they found it and come out the same every time."""

import math

import matplotlib
import pytest

from casemate.report.charts import span, strip, svg
from casemate.report.model import Chart, Line, Number, VerdictView

LINE = Line(
    name="a <b> $x$ & co", x=(0.0, 0.5, 1.0), y=(0.9, 0.5, 0.1), low=(0.8, 0.4, 0.0), high=(1.0, 0.6, 0.2)
)


def chart(**settings: object) -> Chart:
    fields: dict[str, object] = {
        "id": "chart1", "family": "evasion", "title": "t", "caption": "c", "alt": "a", "x_label": "size $1 & $2",
        "y_label": "accuracy", "x_unit": "plain", "y_unit": "share",
        "lines": (LINE, LINE.model_copy(update={"name": "b"})),
    }  # fmt: skip
    return Chart.model_validate(fields | settings)


def verdict(value: float, **settings: object) -> VerdictView:
    found = Number(value=value, low=value, high=value, n=9, text="", interval="")
    fields: dict[str, object] = dict.fromkeys(
        ("threat", "title", "family", "question", "word", "symbol", "why", "metric", "clean_title", "requirement",
         "budget", "access"), "",
    )  # fmt: skip
    fields |= {
        "outcome": "holds", "measured": found, "baseline": found, "clean": None, "on_scale": True, "bound": 0.5,
        "at_least": True, "tried": (), "not_tried": (), "doubts": (), "chained": False,
    }  # fmt: skip
    return VerdictView.model_validate(fields | settings)


def test_matplotlibs_settings_are_left_as_they_were() -> None:
    with matplotlib.rc_context({"svg.hashsalt": "mine", "font.size": 31.0}):
        before = dict(matplotlib.rcParams)
        svg(chart())
        assert dict(matplotlib.rcParams) == before


def test_settings_of_the_user_do_not_change_a_chart() -> None:
    plain = svg(chart())
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert svg(chart()) == plain


def test_the_same_chart_is_drawn_the_same() -> None:
    assert svg(chart()) == svg(chart())


def test_names_differ_between_charts() -> None:
    text = svg(chart()) + svg(chart(id="chart2"))
    names = [part.split('"')[0] for part in text.split(' id="')[1:]]
    assert names
    assert len(set(names)) == len(names)


def test_words_stay_words_and_are_escaped() -> None:
    text = svg(chart())
    assert "a &lt;b&gt; $x$ &amp; co" in text
    assert "size $1 &amp; $2" in text


def test_every_colour_is_left_to_the_page() -> None:
    text = svg(chart(diagonal=True, log=True, mark=0.5, mark_name="budget")) + strip(verdict(0.3), "s")
    assert "var(--s1)" in text
    assert "var(--ink)" in text
    assert not [word for word in ("#0", "#f", "black", "white") if word in text.replace('href="#', "")]


@pytest.mark.parametrize(
    "lines", [(), (Line(name="none", x=(), y=()),), (Line(name="one", x=(0.0,), y=(0.0,)),)]
)
@pytest.mark.parametrize("log", [False, True])
def test_charts_of_nearly_nothing_are_drawn(lines: tuple[Line, ...], log: bool) -> None:
    assert svg(chart(lines=lines, log=log, diagonal=log, x_unit="share")).startswith("<svg")


def test_numbers_that_are_no_shares_get_no_scale() -> None:
    assert strip(verdict(0.3), "s").startswith("<svg")
    assert strip(verdict(0.3, on_scale=False), "s") == ""
    assert strip(verdict(0.3, measured=None), "s") == ""


@pytest.mark.parametrize(
    ("shares", "ends"),
    [
        ([0.001, 0.05], (0.0, 0.06)),
        ([-0.013, 0.05], (-0.02, 0.06)),
        ([0.0, 0.0], (0.0, 0.02)),
        ([-0.13, 0.9], (-0.2, 1.02)),
        ([-3.0, 3.0], (-1.0, 1.02)),
        ([math.nan, 0.05, math.inf], (0.0, 0.06)),
    ],
)
def test_small_shares_get_a_scale_of_their_own(shares: list[float], ends: tuple[float, float]) -> None:
    assert span(shares) == pytest.approx(ends)


def test_what_is_required_is_a_line_across() -> None:
    assert svg(chart(level=0.5)) != svg(chart())
