"""What commands print after the work."""

from casemate.assess.result import Assessment, Flag, Verdict
from casemate.cli.tables import gate, print_defences, print_verdicts
from casemate.ops.stats import share


def test_what_is_doubtful_is_printed_in_words(capsys):
    verdict = Verdict(
        threat="membership", title="Members", family="membership", outcome="inconclusive", measured=share(3, 100),
        metric="tpr_at_1pct_fpr", why="the interval contains the bound (tpr at 1pct fpr at most 5%)",
    )  # fmt: skip
    failed = verdict.model_copy(update={"title": "Others", "why": "a check failed: few-rows"})
    print_verdicts(
        Assessment(
            target="t", target_digest="t", data="d", data_digest="d", rows=100, classes=3, shape=(1,),
            verdicts=(verdict, failed), checks=(Flag(code="surrogate-recipe", detail="5 epochs"),),
        )
    )  # fmt: skip
    out = " ".join(capsys.readouterr().out.split())
    assert "the interval contains the bound (the rate at 1% false alarms at most 5%)" in out
    assert "Others: inconclusive, a check failed: few rows" in out
    assert "Note: Trained by a stand-in recipe: 5 epochs" in out


def test_defences_that_were_tried_are_printed_in_order_and_the_best_is_named(capsys):
    """The order is that of the price, which ranks; an id that is not recommended must not be called so."""
    effects = {
        "training.trades": {"robust_accuracy": {"value": 0.6, "low": 0.54, "high": 0.65, "n": 300}},
        "no defence": {"robust_accuracy": 0.1, "accuracy_lost": 0.0217755},
    }
    found = Assessment(
        target="t", target_digest="t", data="d", data_digest="d", rows=100, classes=3, shape=(1,), verdicts=(),
        price={"candidates": effects, "recommended": ["training.trades"], "compared_on": "300 test rows"},
    )  # fmt: skip
    print_defences(found)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[1:] == [
        "training.trades robust accuracy 60.0% (54.0% to 65.0%) of 300 rows; recommended",
        "no defence robust accuracy 0.1, accuracy lost 2.2 points",
        "Those against evasion were compared on 300 test rows.",
        "Recommended: training.trades",
    ]
    print_defences(found.model_copy(update={"price": {"candidates": effects, "recommended": []}}))
    assert "Recommended: none; no defence" in capsys.readouterr().out
    print_defences(found.model_copy(update={"price": {}}))
    assert capsys.readouterr().out == ""


def test_a_gate_does_not_pass_where_every_attack_failed(capsys):
    verdict = Verdict(
        threat="backdoor",
        title="Triggers",
        family="backdoor",
        outcome="inconclusive",
        why="no attack finished",
    )
    found = Assessment(
        target="t",
        target_digest="t",
        data="d",
        data_digest="d",
        rows=100,
        classes=3,
        shape=(1,),
        verdicts=(verdict,),
    )
    assert gate(found, "falls") == 1
    assert "nothing was tested" in capsys.readouterr().out
    done = verdict.model_copy(update={"tried": ("key",)})
    assert gate(found.model_copy(update={"verdicts": (verdict, done)}), "falls") == 0
    assert "passed; not tested: backdoor" in capsys.readouterr().out
