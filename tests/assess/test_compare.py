import json
import math
from pathlib import Path

import pytest
import torch

from casemate.assess.case import Case
from casemate.assess.compare import compare, unmatched
from casemate.assess.result import Assessment, Flag, Result, Verdict
from casemate.assess.store import Store
from casemate.cli.main import run
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.ops.stats import Estimate, mean, share


class Folder:
    """An assessment written by hand."""

    def __init__(self, path: Path, *, data: str = "data", clean: Estimate | None = None) -> None:
        self.path, self.store, self.data, self.clean = path, Store(path), data, clean
        self.verdicts: list[Verdict] = []
        self.keys: list[str] = []

    def result(self, method: str, metrics: dict[str, Estimate], tensors=None, **case) -> str:
        asked = Case(method=method, version=1, data=self.data, target=str(self.path), **{"rows": 100, **case})
        self.store.put(Result(key=asked.key, case=asked, status="done", metrics=metrics), tensors)
        self.keys.append(asked.key)
        return asked.key

    def verdict(self, threat: str, metric: str, measured: Estimate | None, tried=(), **more) -> "Folder":
        family = threat.partition("-")[0]
        self.verdicts.append(
            Verdict(threat=threat, title=threat.title(), family=family, outcome="holds", why="", metric=metric,
                    measured=measured, tried=tuple(tried), **more)
        )  # fmt: skip
        return self

    def evasion(
        self,
        *standing: torch.Tensor,
        threat="evasion-linf",
        rows=None,
        clean=None,
        methods=("pgd", "apgd"),
        **more,
    ):
        """A threat that some attacks tried on the same rows; `standing` says which rows each left."""
        n = len(standing[0])
        rows = torch.arange(n) if rows is None else rows
        clean = torch.ones(n, dtype=torch.bool) if clean is None else clean
        keys = [
            self.result(
                f"evasion.{method}",
                {},
                {"rows": rows, "y": rows % 3, "clean_correct": clean, "standing": left},
            )
            for method, left in zip(methods, standing, strict=False)
        ]
        left = int(torch.stack(standing).all(0).sum())
        return self.verdict(threat, "robust_accuracy", share(left, n), keys, **more)

    def write(self) -> Path:
        self.store.finish(
            Assessment(target="t", target_digest="t", data="d", data_digest=self.data, rows=100, classes=3, shape=(1,),
                       clean_accuracy=self.clean, verdicts=tuple(self.verdicts), keys=tuple(self.keys))
        )  # fmt: skip
        return self.path


def standing(*counts: int) -> torch.Tensor:
    """Rows that stand and do not, in turn: 60, 40 is 60 times True, then 40 times False."""
    return torch.cat([torch.full((c,), i % 2 == 0) for i, c in enumerate(counts)])


def test_evasion_on_the_same_rows_is_tested_row_by_row(tmp_path):
    """Rows 0 .. 59 stand before, 1 .. 68 after: one is lost, nine are won, and two tails of Bin(10, 1/2)
    give 2 (1 + 10) / 1024. Of 100 rows, Fisher's test would give 0.3."""
    before = Folder(tmp_path / "a").evasion(standing(60, 40)).write()
    after = Folder(tmp_path / "b").evasion(~standing(1, 68, 31)).write()
    row, clean = compare(before, after)
    assert (row.threat, row.metric, row.title) == ("evasion-linf", "robust_accuracy", "Evasion-Linf")
    assert (row.before.value, row.after.value) == (0.6, 0.68)
    assert row.difference.value == pytest.approx(0.08)
    assert 0 < row.difference.low < 0.08 < row.difference.high
    assert row.p_value == pytest.approx(22 / 1024)
    assert row.change == "better"
    assert "McNemar" in row.test
    assert (clean.threat, clean.change, clean.p_value) == ("clean", "no clear difference", 1)


def test_the_worst_case_of_several_attacks_is_compared(tmp_path):
    """Each attack leaves 60 rows, together they leave 20."""
    before = Folder(tmp_path / "a").evasion(standing(60, 40), ~standing(40, 60)).write()
    after = Folder(tmp_path / "b").evasion(standing(60, 40), standing(60, 40)).write()
    row, _ = compare(before, after)
    assert (row.before.value, row.after.value, row.change) == (0.2, 0.6, "better")


def test_the_order_of_the_folders_turns_better_into_worse(tmp_path):
    weak = Folder(tmp_path / "a").evasion(standing(30, 70)).write()
    strong = Folder(tmp_path / "b").evasion(standing(80, 20)).write()
    there, back = compare(weak, strong)[0], compare(strong, weak)[0]
    assert (there.change, back.change) == ("better", "worse")
    assert there.p_value == back.p_value
    assert there.difference.value == -back.difference.value
    assert there.difference.low == pytest.approx(-back.difference.high)


def test_an_assessment_does_not_differ_from_itself(tmp_path):
    folder = Folder(tmp_path / "a").evasion(standing(60, 40)).write()
    row, clean = compare(folder, folder)
    assert (row.p_value, row.change) == (1, "no clear difference")
    assert (clean.p_value, clean.change) == (1, "no clear difference")


@pytest.mark.parametrize("how", ["other rows", "other data", "no evidence"])
def test_different_rows_are_tested_as_different(tmp_path, how):
    """Fisher's test on 60 and 68 of 100."""
    before = Folder(tmp_path / "a").evasion(standing(60, 40)).write()
    folder = Folder(tmp_path / "b", data="others" if how == "other data" else "data")
    if how == "no evidence":
        folder.verdict("evasion-linf", "robust_accuracy", share(68, 100))
    else:
        folder.evasion(standing(68, 32), rows=torch.arange(100) + 3 * (how == "other rows"))
    row = compare(before, folder.write())[0]
    assert "Fisher" in row.test
    assert 0.2 < row.p_value < 0.4
    assert row.change == "no clear difference"
    assert row.difference.low < 0 < row.difference.high
    assert ("different data" in row.notes) == (how == "other data")


def test_several_threats_raise_the_bar(tmp_path):
    """p = 22/1024 alone, and twice that with a second threat that did not change."""
    paths = []
    for name, left in (("a", standing(60, 40)), ("b", ~standing(1, 68, 31))):
        folder = Folder(tmp_path / name).evasion(left)
        paths.append(folder.evasion(standing(50, 50), threat="evasion-l2", methods=("ddn",)).write())
    row, other, _ = compare(*paths)
    assert row.p_value == pytest.approx(44 / 1024)
    assert other.p_value == 1


def test_poisoning_is_compared_over_victims(tmp_path):
    """Three victims each: drops of 0.10, 0.11, 0.12 and 0.01, 0.02, 0.03 differ by 9 standard deviations."""
    paths = []
    for name, drops in (("a", [0.10, 0.11, 0.12]), ("b", [0.01, 0.02, 0.03])):
        folder = Folder(tmp_path / name)
        key = folder.result("poisoning.label_flip", {"accuracy_drop": mean(drops)}, repeats=3, rate=0.2)
        paths.append(
            folder.verdict("poisoning-labels", "accuracy_drop", mean(drops), [key], budget="20%").write()
        )
    (row,) = compare(*paths)
    assert "Welch" in row.test
    assert row.difference.value == pytest.approx(-0.09)
    assert row.p_value < 0.001
    assert row.change == "better"


def test_one_victim_on_each_side_tells_nothing_about_a_drop(tmp_path):
    paths = []
    for name, drop in (("a", 0.3), ("b", 0.01)):
        folder = Folder(tmp_path / name)
        key = folder.result("poisoning.label_flip", {"accuracy_drop": mean([drop])}, repeats=1, rate=0.2)
        paths.append(folder.verdict("poisoning-labels", "accuracy_drop", mean([drop]), [key]).write())
    (row,) = compare(*paths)
    assert (row.p_value, row.change) == (1, "no clear difference")


def test_one_backdoored_victim_on_each_side_is_a_share_of_its_rows(tmp_path):
    paths = []
    for name, hits in (("a", 90), ("b", 5)):
        folder = Folder(tmp_path / name)
        key = folder.result("backdoor.badnets", {"attack_success": share(hits, 100)}, repeats=1, rate=0.01)
        paths.append(folder.verdict("backdoor-patch", "attack_success", share(hits, 100), [key]).write())
    (row,) = compare(*paths)
    assert ("Fisher" in row.test, row.change) == (True, "better")


def test_membership_is_compared_by_its_intervals(tmp_path):
    before = Folder(tmp_path / "a").verdict("membership", "tpr_at_1pct_fpr", Estimate(0.02, 0.01, 0.03, 1000))
    after = Folder(tmp_path / "b").verdict("membership", "tpr_at_1pct_fpr", Estimate(0.09, 0.06, 0.13, 1000))
    (row,) = compare(before.write(), after.write())
    assert row.change == "worse"
    assert row.difference.low == pytest.approx(0.07 - math.hypot(0.03, 0.01))


def test_what_else_differs_is_said(tmp_path):
    before = Folder(tmp_path / "a").evasion(standing(60, 40), methods=("pgd",))
    after = Folder(tmp_path / "b").evasion(
        standing(40, 60), methods=("square",), flags=(Flag(code="blind-baseline"),)
    )
    row = compare(before.write(), after.write())[0]
    assert row.change == "not comparable"
    assert row.notes[:3] == (
        "no attack was tried alike by both", "only before: evasion.pgd()", "only after: evasion.square()"
    )  # fmt: skip
    assert "differ in kind" in row.notes[3]


def test_an_attack_that_only_one_side_tried_is_not_blamed_on_the_model(tmp_path, capsys):
    """PGD leaves 90 of 100 rows on both sides; APGD, which only the second asked for, leaves 60."""
    before = Folder(tmp_path / "a").evasion(standing(90, 10), methods=("pgd",))
    after = Folder(tmp_path / "b").evasion(standing(90, 10), standing(60, 40)).write()
    before = before.evasion(standing(90, 10), threat="evasion-l2", methods=("fgsm",)).write()
    for one, two, when in ((before, after, "after"), (after, before, "before")):
        row = compare(one, two)[0]
        assert (row.before.value, row.after.value, row.change) == (0.9, 0.9, "no clear difference")
        assert row.notes == (
            "compared on the attacks that both tried alike", f"not counted {when}: evasion.apgd",
        )  # fmt: skip
        assert run(["compare", str(one), str(two), "--fail-on", "worse"]) == 0
        line = "Gate --fail-on worse passed; not compared: Evasion-Linf by evasion.apgd {}; Evasion-L2"
        assert line.format(when) in capsys.readouterr().out


def test_an_attack_of_other_settings_is_another_attack(tmp_path):
    """Flips of each row's own label cost 2 points on both sides; one label for all, newly asked for, costs 10."""
    paths = []
    for name, kinds in (("a", ["each its own"]), ("b", ["each its own", "one for all"])):
        folder, drops = (
            Folder(tmp_path / name),
            {"each its own": (0.01, 0.02, 0.03), "one for all": (0.09, 0.1, 0.11)},
        )
        keys = [
            folder.result(
                "poisoning.label_flip",
                {"accuracy_drop": mean(drops[k])},
                repeats=3,
                rate=0.2,
                params={"labels": k},
            )
            for k in kinds
        ]
        worst = mean(drops[kinds[-1]])
        paths.append(folder.verdict("poisoning-labels", "accuracy_drop", worst, keys, budget="20%").write())
    (row,) = compare(*paths)
    assert (row.after.value, row.change) == (row.before.value, "no clear difference")
    assert row.beyond == ("poisoning.label_flip after",)


def test_what_continued_on_an_attack_of_one_side_cannot_be_counted_without_it(tmp_path):
    """In a chain the second attack's rows are those that the first, which only one side tried, left standing."""
    folder = Folder(tmp_path / "b")
    rows = torch.arange(100)
    columns = {"rows": rows, "y": rows % 3, "clean_correct": rows >= 0}
    apgd = folder.result("evasion.apgd", {}, {**columns, "standing": standing(40, 60)})
    pgd = folder.result("evasion.pgd", {}, {**columns, "standing": standing(40, 60)}, after=(apgd,))
    after = folder.verdict("evasion-linf", "robust_accuracy", share(40, 100), [apgd, pgd]).write()
    before = Folder(tmp_path / "a").evasion(standing(90, 10), methods=("pgd",)).write()
    assert compare(before, after)[0].change == "not comparable"


def test_other_budgets_are_not_compared(tmp_path):
    before = Folder(tmp_path / "a").evasion(standing(60, 40), budget="linf 8/255")
    after = Folder(tmp_path / "b").evasion(standing(10, 90), budget="linf 0.1")
    row, _ = compare(before.write(), after.write())
    assert row.change == "not comparable"
    assert row.notes[0] == "budget: linf 8/255 before, linf 0.1 after"


def test_clean_accuracy_is_compared_row_by_row_where_rows_are_shared(tmp_path):
    """Ten rows are lost and none won: p = 2 / 1024."""
    before = Folder(tmp_path / "a", clean=share(900, 1000)).evasion(standing(10, 90), clean=standing(100, 0))
    after = Folder(tmp_path / "b", clean=share(899, 1000)).evasion(standing(10, 90), clean=standing(90, 10))
    clean = compare(before.write(), after.write())[-1]
    assert (clean.threat, clean.metric, clean.change) == ("clean", "accuracy", "worse")
    assert clean.p_value == pytest.approx(2 / 1024)


def test_clean_accuracy_without_shared_rows_is_that_of_the_assessments(tmp_path):
    paths = [
        Folder(tmp_path / name, clean=share(right, 1000))
        .verdict("membership", "auc", Estimate(0.5, 0.4, 0.6, 9))
        .write()
        for name, right in (("a", 900), ("b", 800))
    ]
    clean = compare(*paths)[-1]
    assert (clean.before.value, clean.after.value, clean.change) == (0.9, 0.8, "worse")


def backdoor(path, successes: dict[float, tuple[float, ...]]) -> Folder:
    """A trigger at some rates, each tried on victims that it steered in these shares."""
    folder, keys = Folder(path), []
    for rate, values in successes.items():
        metrics = {"attack_success": mean(values)}
        keys.append(folder.result("backdoor.badnets", metrics, rate=rate, repeats=len(values)))
    worst = max(successes.values(), key=sum)
    budget = ", ".join(f"{100 * rate:g}%" for rate in successes) + " of the training rows"
    return folder.verdict("backdoor-patch", "attack_success", mean(worst), keys, budget=budget)


def test_a_backdoor_that_was_tried_at_more_rates_behind_a_defence_is_compared_at_those_of_both(tmp_path):
    """1% steered 90% before and 10% after; the 3% that only the second tried, with 60%, do not count."""
    before = backdoor(tmp_path / "a", {0.01: (0.89, 0.9, 0.91)}).write()
    after = backdoor(tmp_path / "b", {0.01: (0.09, 0.1, 0.11), 0.03: (0.59, 0.6, 0.61)}).write()
    (row,) = compare(before, after)
    assert row.difference.value == pytest.approx(-0.8)
    assert row.change == "better"
    assert row.test == "Welch's t test over victims"
    assert row.notes == ("compared at 1% of the training rows; 3% was tried as well after",)


def test_a_backdoor_without_a_rate_in_common_is_not_comparable_and_the_table_says_why(tmp_path, capsys):
    before = backdoor(tmp_path / "a", {0.01: (0.89, 0.9, 0.91)}).write()
    after = backdoor(tmp_path / "b", {0.03: (0.09, 0.1, 0.11)}).write()
    assert run(["compare", str(before), str(after)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not a number" not in said
    assert (
        "Backdoor-Patch: not comparable, budget: 1% of the training rows before, 3% of the training rows after"
        in said
    )
    run(["compare", str(before), str(after), "--json"])
    (row,) = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert row["difference"]["value"] is None


@pytest.mark.parametrize(
    ("first", "second", "fail_on", "code", "says"),
    [
        (0.1, 0.9, "worse", 1, "Gate --fail-on worse failed: Backdoor-Patch (worse)"),
        (0.9, 0.1, "worse", 0, "Gate --fail-on worse passed"),
        (0.9, 0.9, "falls", 0, "Gate --fail-on falls passed"),
    ],
)
def test_a_comparison_has_a_gate(tmp_path, capsys, first, second, fail_on, code, says):
    """The verdicts written by hand hold, whatever their numbers, so that "falls" finds none."""
    before, after = (
        backdoor(tmp_path / name, {0.01: (rate - 0.01, rate, rate + 0.01)}).write()
        for name, rate in (("a", first), ("b", second))
    )
    assert run(["compare", str(before), str(after), "--fail-on", fail_on]) == code
    assert says in capsys.readouterr().out
    assert run(["compare", str(before), str(after), "--fail-on", fail_on, "--json"]) == code
    both = capsys.readouterr()
    assert says in both.err
    json.loads(both.out)


def test_a_gate_on_a_comparison_of_nothing_fails(tmp_path, capsys):
    before = backdoor(tmp_path / "a", {0.01: (0.89, 0.9, 0.91)}).write()
    after = backdoor(tmp_path / "b", {0.03: (0.09, 0.1, 0.11)}).write()
    assert run(["compare", str(before), str(after), "--fail-on", "worse"]) == 1
    assert "failed: nothing was compared; not compared: Backdoor-Patch" in capsys.readouterr().out


def test_a_folder_without_an_assessment_is_named(tmp_path):
    good = Folder(tmp_path / "a").evasion(standing(60, 40)).write()
    with pytest.raises(UsageError, match="nowhere"):
        compare(good, tmp_path / "nowhere")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "assessment.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        compare(tmp_path / "broken", good)


def test_lost_evidence_is_named(tmp_path):
    folder = Folder(tmp_path / "a").evasion(standing(60, 40))
    path = folder.write()
    next(folder.store.results.glob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"evidence .* cannot be read"):
        compare(path, path)


def test_nothing_in_common_is_said_with_what_there_is(tmp_path):
    one = Folder(tmp_path / "a").evasion(standing(60, 40)).verdict("membership", "auc", None).write()
    two = Folder(tmp_path / "b").verdict("membership", "auc", Estimate(0.5, 0.4, 0.6, 9)).write()
    with pytest.raises(UsageError, match=r"a has evasion-linf; .*b has membership"):
        compare(one, two)


def test_threats_that_only_one_side_measured_are_told(tmp_path):
    auc = Estimate(0.5, 0.4, 0.6, 9)
    one = Folder(tmp_path / "a").evasion(standing(60, 40)).verdict("membership", "auc", auc).write()
    two = Folder(tmp_path / "b").evasion(standing(60, 40)).verdict("membership", "auc", None).write()
    assert unmatched(one, two) == (("Membership", "before"),)
    assert unmatched(two, one) == (("Membership", "after"),)
    assert unmatched(one, one) == ()


def test_attacks_of_one_short_name_are_told_with_all_of_their_settings(tmp_path):
    """One side does not know a parameter that is at its default on the other."""
    paths = []
    for name, usual in (("a", {}), ("b", {"labels": "each its own"})):
        folder, drop = Folder(tmp_path / name), {"accuracy_drop": mean((0.01, 0.02, 0.03))}
        keys = [
            folder.result("poisoning.label_flip", drop, repeats=3, rate=0.2, params=params)
            for params in ({"labels": "one for all"}, usual)
        ]
        paths.append(folder.verdict("poisoning-labels", "accuracy_drop", drop["accuracy_drop"], keys).write())
    notes = compare(*paths)[0].notes
    assert "not counted before: poisoning.label_flip()" in notes
    assert "not counted after: poisoning.label_flip(labels=each its own)" in notes


def test_defaults_that_were_read_from_a_file_are_not_told():
    """A tuple among them is a list there."""
    entry = find("poisoning.gradient_canceling")
    assert any(isinstance(field.default, tuple) for field in entry.params.model_fields.values())
    assert entry.unusual(json.loads(json.dumps(entry.validate({})))) == {}
