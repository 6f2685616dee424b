"""Before and after: what a defence brought and what it cost."""

from pathlib import Path

from made_up import harden

from casemate.assess.result import Assessment
from casemate.assess.store import Store
from casemate.report import build
from casemate.report.hardening import hardening
from casemate.report.view import view
from casemate.report.write import gather


def pair(folder: Path) -> tuple[Assessment, Assessment]:
    inner = harden(folder)
    return Store(inner).assessment(), Store(folder).assessment()


def test_an_assessment_that_hardened_nothing_has_no_such_part(folder: Path) -> None:
    assert hardening(Store(folder).assessment(), None) is None


def test_threats_are_compared_by_their_intervals(folder: Path) -> None:
    """24 against 118 of 200 is clear; 741 against 735 of 750 may be chance."""
    found = hardening(*pair(folder))
    assert found is not None
    linf, patch = found.threats
    assert (linf.before, linf.after) == ("✗ falls: 12.0% (8.2% to 17.2%)", "✓ holds: 59.0% (52.1% to 65.6%)")
    assert linf.note.startswith("clearly better")
    assert "may be chance" in patch.note
    assert found.sentence.startswith("Of 2 threats that fell before")
    assert "1 now holds, and 1 is clearly better" in found.sentence


def test_the_price_is_clean_accuracy_and_time(folder: Path) -> None:
    found = hardening(*pair(folder))
    assert found is not None
    accuracy, time, _ = found.price
    assert (accuracy.before, accuracy.after) == ("84.8% (82.4% to 86.9%)", "79.3% (76.7% to 81.7%)")
    assert accuracy.note.startswith("clearly worse")
    assert time.after == "3 min 07 s"


def test_the_defences_and_what_else_is_known_are_named(folder: Path) -> None:
    found = hardening(*pair(folder))
    assert found is not None
    assert found.defence == "training.trades, repair.fine_pruning"
    assert (
        "Candidate training.trades",
        "robust accuracy 58.0% (52.3% to 63.5%) of 300 rows",
    ) in found.facts
    assert ("Candidates for evasion compared on", "300 test rows that nothing else uses") in found.facts
    assert ("Made up", "3") in found.facts


def test_the_price_is_known_without_the_earlier_assessment(folder: Path) -> None:
    after, _ = pair(folder)
    found = hardening(after, None)
    assert found is not None
    assert found.price[0].before == "84.8% (82.4% to 86.9%)"
    assert found.threats[0].before == "not known"


def test_a_price_of_any_form_does_not_stop_the_report(folder: Path) -> None:
    after, before = pair(folder)
    odd = {"defence": None, "defences": ["x"], "before": "no", "candidates": 3, "training_seconds": "long"}
    assert hardening(after.model_copy(update={"price": odd}), before) is not None


def test_the_report_shows_before_and_after(folder: Path) -> None:
    inner = harden(folder)
    html, text = (path.read_text(encoding="utf-8") for path in build(inner, ["html", "md"]))
    assert 'id="hardening"' in html
    assert "| Small changes of every value | ✗ falls: 12.0%" in text
    (folder / "assessment.json").unlink()
    assert "not known" in build(inner, ["md"])[0].read_text(encoding="utf-8")


def test_threats_that_were_not_attacked_again_stay_with_their_question(folder: Path) -> None:
    shown = view(gather(harden(folder)), {})
    assert [answer.question for answer in shown.answers] == [
        "Can it be fooled?",
        "Can it be poisoned?",
        "Does it leak?",
    ]
    assert shown.answers[1].sentence.endswith("Of 2 threats 1 falls and 1 was not tested.")
