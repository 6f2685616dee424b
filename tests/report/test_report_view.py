"""The view model says what the folder holds, worst first, and hides nothing."""

from pathlib import Path

import pytest

from casemate.assess.result import Flag
from casemate.core.registry import Entry
from casemate.ops.stats import Estimate
from casemate.report.markdown import markdown
from casemate.report.view import Found, view

GOLDEN = Path(__file__).parent / "golden" / "report.md"


def test_the_report_reads_as_agreed(found: Found, entries: dict[str, Entry]) -> None:
    """Delete the golden file to accept a new text: it is written again, and has to be read by somebody."""
    text = markdown(view(found, entries))
    if not GOLDEN.exists():
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
        pytest.fail(f"{GOLDEN.name} was written; read it and commit it")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_same_input_gives_the_same_report(found: Found, entries: dict[str, Entry]) -> None:
    assert view(found, entries).model_dump_json() == view(found, entries).model_dump_json()


def test_verdicts_come_worst_first(found: Found, entries: dict[str, Entry]) -> None:
    outcomes = [verdict.outcome for verdict in view(found, entries).verdicts]
    assert outcomes == ["falls", "falls", "inconclusive", "inconclusive", "not_tested", "not_tested", "holds"]


def test_each_question_is_answered_by_its_worst_threat(found: Found, entries: dict[str, Entry]) -> None:
    """12% of 200 rows is 24; its Wilson interval is 8.2% to 17.2%."""
    fooled, poisoned, leaks = view(found, entries).answers
    assert fooled.sentence.startswith(
        "Yes: 12% of the inputs are still classified correctly under attack (95% interval 8.2% to 17.2%, n = 200); "
        "at least 50% is required."
    )
    assert fooled.sentence.endswith("Of 3 threats 1 falls, 1 is inconclusive and 1 was not tested.")
    assert poisoned.outcome == "falls"
    assert leaks.outcome == "holds"
    assert leaks.sentence.endswith("Of 2 threats 1 was not tested and 1 holds.")


def test_a_question_that_nothing_asks_is_not_tested(found: Found, entries: dict[str, Entry]) -> None:
    only = tuple(v for v in found.assessment.verdicts if v.family == "evasion")
    bare = Found(found.assessment.model_copy(update={"verdicts": only}), found.results)
    assert [answer.outcome for answer in view(bare, entries).answers] == ["falls", "not_tested", "not_tested"]


def test_failed_skipped_and_lost_cases_are_listed_with_their_reasons(
    found: Found, entries: dict[str, Entry]
) -> None:
    lost = Found(found.assessment, found.results, lost=[("evasion-pgd-0", "evasion-pgd-0.json is damaged")])
    troubles = [(t.kind, t.reason) for t in view(lost, entries).troubles]
    assert troubles == [
        ("Failed", "RuntimeError: out of memory"),
        ("Skipped", "needs more than 500 queries per row"),
        ("Unusable", "evasion-pgd-0.json is damaged"),
    ]


def test_a_skipped_case_is_listed_once_and_one_left_out_with_its_verdict(
    found: Found, entries: dict[str, Entry]
) -> None:
    by_threat = {v.threat: v for v in found.assessment.verdicts}
    left_out = by_threat["evasion-labels"].model_copy(
        update={
            "not_tried": (*by_threat["evasion-labels"].not_tried, ("evasion.pgd", "left out by --only 'x'"))
        }
    )
    changed = found.assessment.model_copy(update={"verdicts": (left_out,)})
    shown = view(Found(changed, found.results), entries)
    assert [left.name for left in shown.verdicts[0].not_tried] == ["evasion.pgd"]
    assert [t.reason for t in shown.troubles if t.kind == "Skipped"] == [
        "needs more than 500 queries per row"
    ]


def test_a_flag_without_explanation_is_still_printed(found: Found, entries: dict[str, Entry]) -> None:
    checks = {check.code: check for check in view(found, entries).checks}
    assert checks["made-up-code"].title == "Made up code"
    assert checks["made-up-code"].where == ("pgd, loss margin",)


def test_flags_of_the_target_come_before_those_of_cases(found: Found, entries: dict[str, Entry]) -> None:
    first = view(found, entries).checks[0]
    assert (first.code, first.where) == ("zero-gradient", ("the target: 3 of 64 rows have no gradient",))


def test_a_flag_drawn_with_a_verdict_is_gathered_too(found: Found, entries: dict[str, Entry]) -> None:
    flag = Flag(code="few-rows", detail="12 rows")
    first, *rest = found.assessment.verdicts
    changed = found.assessment.model_copy(
        update={"verdicts": (first.model_copy(update={"flags": (flag,)}), *rest)}
    )
    checks = {check.code: check for check in view(Found(changed, found.results), entries).checks}
    assert checks["few-rows"].where == (f"{first.title}: 12 rows",)


def test_a_method_that_is_not_installed_is_still_shown(found: Found, entries: dict[str, Entry]) -> None:
    (case,) = [c for c in view(found, entries).cases if c.method == "evasion.fmn"]
    assert case.headline is not None
    assert "not installed" in case.summary


def test_cases_are_named_by_what_sets_them_apart(found: Found, entries: dict[str, Entry]) -> None:
    labels = [case.label for case in view(found, entries).cases]
    assert labels[:2] == ["fgsm", "pgd, loss margin"]
    assert "badnets, 0.2% of rows" in labels
    assert len(set(labels)) == len(labels)


def test_two_cases_that_differ_in_nothing_shown_get_numbers(found: Found, entries: dict[str, Entry]) -> None:
    twin = found.results[0].model_copy(update={"key": "other"})
    labels = [case.label for case in view(Found(found.assessment, [*found.results, twin]), entries).cases]
    assert labels[0] == "fgsm"
    assert labels[-1] == "fgsm (2)"


def test_the_examples_of_the_most_harmful_case_of_a_threat_open_the_report(
    found: Found, entries: dict[str, Entry]
) -> None:
    shown = view(found, entries).shown
    assert [key.rsplit("-", 1)[0] for key in shown] == [
        "evasion-pgd", "evasion-ddn", "backdoor-badnets", "poisoning-label_flip",
    ]  # fmt: skip


def test_a_chain_of_attacks_is_told_as_one(found: Found, entries: dict[str, Entry]) -> None:
    """FGSM fools 64 of 172 rows and PGD 84 of those left: PGD's examples are shown, its number is the chain's."""
    shown = view(found, entries)
    linf, other = (next(v for v in shown.verdicts if v.threat == t) for t in ("evasion-linf", "evasion-l2"))
    assert linf.chained
    assert not other.chained
    assert shown.shown[0].startswith("evasion-pgd")
    (case,) = [c for c in shown.cases if c.name == "pgd"]
    assert [tried.name for tried in case.after] == ["fgsm"]


def test_a_paper_is_cited_once_for_all_its_methods(found: Found, entries: dict[str, Entry]) -> None:
    first = view(found, entries).references[0]
    assert first.methods == ("evasion.fgsm", "evasion.pgd")


def test_clean_accuracy_is_named_where_it_is_not_the_verdicts_metric(
    found: Found, entries: dict[str, Entry]
) -> None:
    by_threat = {verdict.threat: verdict for verdict in view(found, entries).verdicts}
    assert by_threat["poisoning-labels"].clean_title == "accuracy"
    assert by_threat["poisoning-labels"].requirement == "at most 5 points"
    assert by_threat["evasion-linf"].clean_title == ""


def test_a_measurement_without_rows_does_not_stop_the_report(found: Found, entries: dict[str, Entry]) -> None:
    none = Estimate(float("nan"), 0.0, 1.0, 0)
    first, *rest = found.assessment.verdicts
    changed = first.model_copy(update={"measured": none, "outcome": "inconclusive", "why": "no row is left"})
    shown = view(
        Found(found.assessment.model_copy(update={"verdicts": (changed, *rest)}), found.results), entries
    )
    (verdict,) = [v for v in shown.verdicts if v.threat == first.threat]
    assert verdict.measured is not None
    assert (verdict.measured.text, verdict.measured.interval) == ("not a number", "no rows")
    assert not verdict.on_scale


def test_an_assessment_without_results_gives_a_report(found: Found) -> None:
    empty = found.assessment.model_copy(update={"verdicts": (), "keys": ()})
    shown = view(Found(empty, []), {})
    assert {answer.outcome for answer in shown.answers} == {"not_tested"}
    assert "Nothing was asked." in markdown(shown)


def test_a_doubt_of_one_case_among_several_names_that_case(found: Found, entries: dict[str, Entry]) -> None:
    """The same doubt, with the same detail or another one, must be told apart by the case that raised it."""
    verdict = next(v for v in found.assessment.verdicts if v.threat == "membership")
    flags = [Flag(code="few-rows", detail="7 rows"), Flag(code="few-rows", detail="9 rows")]
    results = [
        r.model_copy(update={"flags": (flags[verdict.tried.index(r.key)],)}) if r.key in verdict.tried else r
        for r in found.results
    ]
    changed = verdict.model_copy(update={"flags": tuple(flags)})
    only = found.assessment.model_copy(update={"verdicts": (changed,)})
    (shown,) = view(Found(only, results), entries).verdicts
    assert [(d.where, d.detail) for d in shown.doubts] == [
        ((shown.tried[0].name,), "7 rows"),
        ((shown.tried[1].name,), "9 rows"),
    ]


def test_only_reports_with_victims_say_that_these_do_not_follow_the_number_of_rows(
    found: Found, entries: dict[str, Entry]
) -> None:
    facts = dict(view(found, entries).facts)
    assert facts["Test rows attacked"].endswith(
        "; poisoning and backdoors take every row that can judge them"
    )
    others = [r for r in found.results if r.case.family not in ("poisoning", "backdoor")]
    assert dict(view(Found(found.assessment, others), entries).facts)["Test rows attacked"] == (
        "at most 200 per case"
    )
