"""SARIF and JUnit say what the verdicts say, in the words of their formats; Markdown keeps its tables."""

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from casemate.report import build
from casemate.report.markdown import table


@pytest.fixture
def run(folder: Path) -> dict[str, object]:
    log = json.loads(build(folder, ["sarif"])[0].read_text(encoding="utf-8"))
    assert log["version"] == "2.1.0"
    (only,) = log["runs"]
    return only


def test_sarif_levels_follow_the_outcomes(run: dict[str, list[dict[str, str]]]) -> None:
    found = {result["ruleId"]: (result["kind"], result["level"]) for result in run["results"]}
    assert found["evasion-linf"] == ("fail", "error")
    assert found["evasion-l2"] == ("fail", "warning")
    assert found["inversion"] == ("fail", "note")
    assert found["membership"] == ("pass", "none")


def test_sarif_results_point_at_their_rules(run: dict[str, list[dict[str, object]]]) -> None:
    rules = run["tool"]["driver"]["rules"]  # type: ignore[call-overload]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert len({rule["id"] for rule in rules}) == len(rules)


def test_sarif_tells_of_cases_without_an_answer(run: dict[str, list[dict[str, object]]]) -> None:
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    texts = [note["message"]["text"] for note in invocation["toolExecutionNotifications"]]  # type: ignore[attr-defined]
    assert texts == [
        "Failed: square: RuntimeError: out of memory",
        "Skipped: hop skip jump: needs more than 500 queries per row",
    ]


def test_a_sarif_message_carries_number_baseline_and_requirement(
    run: dict[str, list[dict[str, object]]],
) -> None:
    (first,) = [r["message"]["text"] for r in run["results"] if r["ruleId"] == "evasion-linf"]  # type: ignore[index]
    assert "12.0% (95% interval 8.2% to 17.2%, n = 200)" in first
    assert "Random baseline 82.5%. Clean 86.0%. Required: at least 50%." in first


def test_junit_counts_what_it_holds(folder: Path) -> None:
    """Seven threats: 2 fall, 2 are inconclusive, 2 are not tested, 1 holds. Two cases: 1 failed, 1 skipped."""
    root = ElementTree.fromstring(build(folder, ["junit"])[0].read_text(encoding="utf-8"))
    (suite,) = root
    counts = {name: int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 9, "failures": 2, "errors": 1, "skipped": 5}
    assert [len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error", "skipped")] == [2, 1, 5]


def test_junit_never_passes_what_is_in_doubt(folder: Path) -> None:
    root = ElementTree.fromstring(build(folder, ["junit"])[0].read_text(encoding="utf-8"))
    passed = [
        test.get("name") for test in root.iter("testcase")
        if not {child.tag for child in test} & {"failure", "error", "skipped"}
    ]  # fmt: skip
    assert passed == ["Who was in the training data"]


def test_junit_survives_characters_that_xml_cannot_hold(filled: Callable[..., Path]) -> None:
    (path,) = build(filled(hostile="\x0b\x00 ]]> <x>"), ["junit"])
    ElementTree.fromstring(path.read_text(encoding="utf-8"))


def test_a_markdown_cell_cannot_leave_its_table() -> None:
    text = table(("a", "b"), [("x | y\nz", "<b>`c`</b> [d](javascript:e)")])
    assert text.splitlines()[2:] == [r"| x \| y z | &lt;b&gt;\`c\`&lt;/b&gt; \[d\](javascript:e) |"]


def test_markdown_holds_every_number_of_the_view(folder: Path) -> None:
    view, text = (path.read_text(encoding="utf-8") for path in build(folder, ["json", "md"]))
    for case in json.loads(view)["cases"]:
        for metric in case["metrics"]:
            for number in (metric["attack"], metric["baseline"], metric["clean"]):
                assert (
                    number is None or f"{number['text']} ({number['interval']}, n = {number['n']:,})" in text
                )
