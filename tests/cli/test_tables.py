"""What commands print after the work."""

from casemate.assess.result import Assessment, Flag, Verdict
from casemate.cli.tables import print_verdicts
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
