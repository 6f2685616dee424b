"""Charts share axes, keep what matters when thinned, and come with their numbers."""

import numpy as np
from made_up import evasion, membership

from casemate.assess.result import Curve, Result, Verdict
from casemate.core.threat import Lp
from casemate.report.curves import MOST_POINTS, charts


def roc(x: list[float], y: list[float]) -> Result:
    curve = Curve(x=x, y=y, x_label="false-alarm rate", y_label="hits", log=True)
    return membership("membership.loss", 0.9).model_copy(update={"curves": {"roc": curve}})


def eps_curve(norm: str) -> Result:
    curve = Curve(x=[0.0, 0.1, 0.2], y=[0.9, 0.5, 0.1], x_label="radius", y_label="accuracy")
    return evasion("evasion.ddn", 9, Lp(norm=norm, eps=0.1), {}, curves={"accuracy_eps": curve})  # type: ignore[arg-type]


def test_curves_of_one_norm_share_a_chart_and_norms_do_not_mix() -> None:
    results = [eps_curve("linf"), eps_curve("l2"), eps_curve("l2").model_copy(update={"key": "other"})]
    made = charts(results, [], {r.key: r.key for r in results})
    assert [len(chart.lines) for chart in made] == [1, 2]
    assert made[0].mark == 0.1
    assert made[0].mark_name == "budget 0.1"


def test_no_chart_has_more_than_six_lines() -> None:
    results = [eps_curve("l2").model_copy(update={"key": str(i)}) for i in range(8)]
    assert [len(c.lines) for c in charts(results, [], {r.key: r.key for r in results})] == [6, 2]


def test_an_roc_reads_off_its_hits_at_fixed_false_alarm_rates() -> None:
    """Of points at the same rate the last counts: with no false alarm at all 0.2 are found, at 1% 0.4."""
    result = roc([0.0, 0.0, 0.01, 0.1, 1.0], [0.0, 0.2, 0.4, 0.6, 1.0])
    (chart,) = charts([result], [], {result.key: "loss"})
    assert [row[1:3] for row in chart.rows] == [("0.1%", "20.0%"), ("1%", "40.0%"), ("10%", "60.0%")]
    assert chart.log
    assert chart.diagonal


def test_thinning_an_roc_keeps_both_ends_and_the_jump_at_zero() -> None:
    x = [0.0] * 300 + np.linspace(0.001, 1, 2000).tolist()
    y = np.linspace(0, 0.3, 300).tolist() + np.linspace(0.3, 1, 2000).tolist()
    result = roc(x, y)
    (chart,) = charts([result], [], {result.key: "loss"})
    (line,) = chart.lines
    assert len(line.x) <= MOST_POINTS + 2
    assert (line.x[0], line.y[0]) == (0.0, 0.0)
    assert (0.0, 0.3) in zip(line.x, line.y, strict=True)
    assert (line.x[-1], line.y[-1]) == (1.0, 1.0)


def test_points_that_are_not_numbers_are_left_out() -> None:
    result = roc([0.0, float("nan"), 1.0], [0.0, 0.5, 1.0])
    (chart,) = charts([result], [], {result.key: "loss"})
    assert chart.lines[0].x == (0.0, 1.0)


def test_the_curve_of_a_verdict_is_in_words_and_has_the_bound() -> None:
    curve = Curve(x=[0.01, 0.03], y=[0.2, 0.9], x_label="share of the rows", y_label="attack success")
    verdict = Verdict(
        threat="t", title="T", family="backdoor", outcome="falls", why="", metric="attack_success",
        requirement="attack success at most 10%", curves={"badnets": curve},
    )  # fmt: skip
    (made,) = charts([], [verdict], {})
    assert (made.y_label, made.level) == ("inputs given the class wished for", 0.1)
    assert "at most 10%" in made.caption
    other = curve.model_copy(update={"y_label": "accuracy"})
    (made,) = charts([], [verdict.model_copy(update={"curves": {"badnets": other}})], {})
    assert (made.y_label, made.level) == ("accuracy", None)
