import io

from rich.console import Console
from rich.progress import TextColumn

from casemate.assess.case import Case
from casemate.assess.result import Result
from casemate.cli.pace import Pace
from casemate.cli.progress import Bars, Lines, _Bars, _Left, summary
from casemate.ops.stats import share


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def result(**settings: object) -> Result:
    case = Case(method="evasion.pgd", version=1, data="d", rows=10)
    fields = {
        "key": case.key,
        "case": case,
        "status": "done",
        "headline": "robust_accuracy",
        "metrics": {"robust_accuracy": share(3, 10)},
    }
    return Result.model_validate(fields | settings)


def test_a_result_is_told_with_its_interval():
    assert summary(result()) == "accuracy under attack 30.0% (10.8% to 60.3%)"


def test_what_did_not_run_is_told_with_its_reason():
    assert summary(result(status="skipped", reason="no gradients")) == "skipped: no gradients"
    assert summary(None) == "done"


def test_lines_tell_begin_end_and_time_left():
    """After 1 of 4 equal cases in 10 s, 30 s are left."""
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    lines.plan(["evasion.pgd"] * 4)
    lines.start("a", "evasion.pgd")
    clock.now = 10
    lines.finish("a", result())
    lines.message("a remark")
    assert out.getvalue().splitlines() == [
        "[1/4] evasion.pgd ...",
        "[1/4] evasion.pgd: accuracy under attack 30.0% (10.8% to 60.3%), 10.0 s, about 30.0 s left",
        "a remark",
    ]


def test_long_cases_speak_now_and_then():
    out, clock = io.StringIO(), Clock()
    lines = Lines(out, clock)
    lines.plan(["evasion.pgd"] * 2)
    lines.start("a", "evasion.pgd")
    for second in range(41):
        clock.now = second
        lines.step(second, 80, {})
    assert out.getvalue().splitlines()[1:] == [
        "[1/2] evasion.pgd: step 15 of 80, about 2 min 25 s left",
        "[1/2] evasion.pgd: step 30 of 80, about 2 min 10 s left",
    ]


def test_no_time_left_is_told_before_a_hundredth_of_the_work():
    """Crafting ticks little: after 15 s at 1/120 of the work 30 minutes would be told."""
    clock = Clock()
    pace = Pace(clock)
    pace.plan(["evasion.pgd"] * 2)
    pace.start("evasion.pgd")
    clock.now = 15
    assert pace.left(1 / 60) == ""
    assert pace.left(1 / 40) == "about 19 min 45 s left"


def test_the_time_left_counts_what_trains_for_more_and_what_is_kept_for_nothing():
    """One of 1 + 1 + 20 parts in 6 s leaves 21 times as much, and not twice; nothing is told in the first 5 s."""
    clock = Clock()
    pace = Pace(clock)
    pace.plan(["evasion.fgsm", "evasion.pgd", "evasion.square", "backdoor.badnets at 1%"])
    pace.start("evasion.fgsm (kept)")
    pace.finish()
    pace.start("evasion.pgd")
    clock.now = 4
    assert pace.left(0.5) == ""
    clock.now = 6
    pace.finish()
    assert pace.left() == "about 2 min 06 s left"
    pace.start("evasion.square")
    pace.finish()
    pace.start("backdoor.badnets at 1%")
    clock.now = 30
    assert pace.left(0.5) == "about 25.0 s left"
    pace.finish()
    assert pace.left() == ""


def test_more_cases_than_planned_do_not_confuse_the_count():
    out = io.StringIO()
    lines = Lines(out)
    lines.start("a", "training")
    lines.finish("a", None)
    assert out.getvalue().splitlines()[0] == "[1/1] training ..."


def test_bars_leave_a_line_for_each_case():
    clock, out = Clock(), io.StringIO()
    columns = TextColumn("{task.description} {task.completed:.0f}/{task.total} {task.fields[values]}")
    with _Bars(
        columns, _Left(), console=Console(file=out, force_terminal=True, width=100), auto_refresh=False
    ) as progress:
        bars = Bars(progress, clock)
        bars.plan(["a", "b"])
        bars.start("a", "evasion.[pgd]")
        clock.now = 1
        bars.step(5, 10, {"loss": 0.25})
        progress.refresh()
        shown = out.getvalue()
        bars.finish("a", result())
        progress.refresh()
    assert "evasion.[pgd] 5/10 loss 0.25" in shown
    assert "evasion.[pgd]: accuracy under attack 30.0%" in out.getvalue()
    assert "cases 1/2" in out.getvalue()
