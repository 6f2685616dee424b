"""Numbers as people read them."""

import math

import pytest

from casemate.core.threat import Lp
from casemate.ops.stats import Estimate
from casemate.report import words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.125, "share", "12.5%"),
        (-0.021, "points", "-2.1 points"),
        (0.1234567, "plain", "0.123"),
        (math.nan, "share", "not a number"),
        (math.inf, "plain", "∞"),
    ],
)
def test_numbers_are_written_in_their_unit(value: float, unit: words.Unit, text: str) -> None:
    assert words.number(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.525, "52.5%"), (0.12, "12%"), (0.014, "1.4%"), (0.0, "0%"), (1.0, "100%")]
)
def test_sentences_give_the_number_of_the_table_without_a_needless_zero(value: float, text: str) -> None:
    assert words.short(value) == text


def test_sentences_shorten_points_too() -> None:
    assert words.short(0.21, "points") == "21 points"
    assert words.short(10.0, "plain") == "10"


def test_one_run_has_no_interval() -> None:
    assert words.interval(Estimate(0.5, -math.inf, math.inf, 1)) == "no interval from one run"
    assert words.interval(Estimate(0.5, 0.4, 0.6, 9), "points") == "40.0 to 60.0 points"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_times_are_written_in_two_parts_at_most(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_radius_is_written_as_a_fraction_of_255() -> None:
    assert words.ball(Lp(norm="linf", eps=8 / 255)) == "L∞ distance at most 8/255, for values in 0 to 1"


def test_a_query_limit_is_part_of_the_budget() -> None:
    assert words.ball(Lp(norm="l0", eps=16, queries=2500)).endswith(
        "16: that many changed positions; at most 2,500 queries per row"
    )


def test_an_unknown_metric_keeps_its_name_and_gets_a_unit_by_its_sound() -> None:
    assert words.metric("detection_rate").title == "Detection rate"
    assert words.metric("detection_rate").unit == "share"
    assert words.metric("mean_steps").unit == "plain"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("eps", 16 / 255, "16/255"), ("eps", 0.2, "0.2"), ("eps", 1e-12, "1e-12"), ("lr", 1 / 15, "0.0666667")],
)
def test_radii_alone_are_written_in_levels(name: str, value: float, text: str) -> None:
    assert words.setting(value, name) == text
