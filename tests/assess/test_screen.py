"""Screening a data set of one's own: a poisoned one, a clean one, and what cannot be screened."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from casemate.assess.screen import GROUPS, LABELS, SUPPORT, Screened, passes, ranked, screen, unfit
from casemate.builtin.data import digits, fashion_mini
from casemate.cli.main import run
from casemate.core.data import PoisonBudget, Samples
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.ops.rng import generator
from casemate.report.screening import ABOUT, check, first, fit, html

ROWS = 1500


def saved(path: Path, *, poison: bool) -> set[int]:
    """Write clothing images as a .npz file, 5% of them with a patch and another label; tells which."""
    train, test = fashion_mini()
    some = train[torch.randperm(len(train), generator=generator(3))[:ROWS]]
    rows: set[int] = set()
    if poison:
        badnets = find("backdoor.badnets")
        found = badnets.run(some, PoisonBudget(0.05), rng=generator(4), **badnets.validate({}))
        some, rows = found.apply(some), set(found.rows.tolist())
    np.savez(
        path,
        x_train=some.x.numpy(),
        y_train=some.y.numpy(),
        x_test=test.x[:50].numpy(),
        y_test=test.y[:50].numpy(),
    )
    return rows


@pytest.mark.slow
def test_patched_rows_are_found_and_most_clean_ones_are_not(tmp_path: Path, capsys) -> None:
    """The command, from a file to numbers, page and exit code."""
    bad = saved(tmp_path / "own.npz", poison=True)
    out = tmp_path / "out"
    code = run(["screen", f"npz:{tmp_path / 'own.npz'}", "--json", "--out", str(out), "--fail-above", "0.03"])
    said = json.loads(capsys.readouterr().out)
    assert code == 1
    assert said == json.loads((out / "screen.json").read_text())
    assert said["rows"] == ROWS
    rows = {each["row"] for each in said["suspicious"]}
    assert len(rows & bad) >= 0.8 * len(bad)
    assert len(rows - bad) <= 0.1 * (ROWS - len(bad))
    assert all(each["raised_by"] for each in said["suspicious"])
    page = (out / "screen.html").read_text()
    assert page.count("data:image/png") == min(200, len(rows))
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_few_rows_of_clean_data_are_raised_and_the_table_says_how_many_to_expect(
    tmp_path: Path, capsys
) -> None:
    saved(tmp_path / "own.npz", poison=False)
    assert run(["screen", f"npz:{tmp_path / 'own.npz'}", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "rows are suspicious" in said
    assert "not calibrated on your data" in " ".join(said.split())
    assert "The net that rows are judged by gives" in " ".join(said.split())
    assert json.loads((tmp_path / "out" / "screen.json").read_text())["share_suspicious"] <= 0.1


@pytest.mark.parametrize(("share", "warned"), [(0.7, False), (0.69, True)])
def test_a_net_that_knows_few_rows_is_no_good_judge(share: float, warned: bool) -> None:
    """It may have learnt little, or the labels may be wrong, which more passes would only teach it by heart."""
    rows = Samples(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), 2)
    said = fit(Screened("own", rows, share, {}, [], {}))
    assert said.startswith(f"The net that rows are judged by gives {share:.0%} of them their own label")
    assert ("many labels are wrong" in said) == warned


def few(source, classes: tuple[int, ...], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Clean rows of some classes, numbered from 0."""
    train, _ = source()
    rows = torch.cat([(train.y == c).nonzero().flatten() for c in classes])
    rows = rows[torch.randperm(len(rows), generator=generator(7))[:n]]
    return train.x[rows].numpy(), np.searchsorted(classes, train.y[rows].numpy())


@pytest.mark.parametrize(
    ("source", "classes"),
    [(fashion_mini, (0, 9)), (fashion_mini, (5, 8)), (digits, (0, 1)), (digits, (4, 9))],
)
def test_clean_rows_of_two_classes_are_not_called_poisoned(source, classes) -> None:
    """With STRIP and clustering, a third to a half of these rows were."""
    found = screen(few(source, classes, 300))
    assert found.share <= 0.02
    assert set(found.left_out) == set(GROUPS)
    assert not found.seeks_backdoors


def test_what_few_classes_leave_out_is_said_everywhere(tmp_path: Path, capsys) -> None:
    x, y = few(digits, (0, 1), 60)
    np.savez(tmp_path / "two.npz", x=x, y=y)
    command = ["screen", f"npz:{tmp_path / 'two.npz'}", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "out" / "screen.html").read_text()
    numbers = json.loads((tmp_path / "out" / "screen.json").read_text())
    for name, why in unfit(2).items():
        assert f"Not run: {name}: {why}" in said
        assert why in page
        assert numbers["left_out"][name] == why
    assert "backdoors were not looked for" in said
    assert "backdoors were not looked for" in page
    assert numbers["seeks_backdoors"] is False
    for text in (said, page, numbers["on_clean_data"]):
        assert "not calibrated on your data" in text


def test_every_screening_is_explained_in_a_sentence_and_what_half_a_class_hides_is_said() -> None:
    none = torch.zeros(40, dtype=torch.float64)
    data = Samples(torch.zeros(40, 1, 2, 2), torch.arange(40) % 2, 2)
    names = [*GROUPS, *SUPPORT, *LABELS]
    ran = Screened("made up", data, 1.0, dict.fromkeys(names[1:], none), [], {names[0]: "it needs more"})
    page = " ".join(html(ran).split())
    assert set(ABOUT) == set(names)
    assert all(page.count(sentence) == 1 and sentence.count(".") == 1 for sentence in ABOUT.values())
    assert "where half of a class or more is poison, they see nothing" in page
    assert "Left out: it needs more." in page


def test_few_rows_are_passed_over_as_often_as_many_take_steps() -> None:
    assert [passes(n) for n in (60000, 5000, 4999, 1000, 20)] == [8, 8, 9, 40, 200]


def test_the_class_where_suspicious_rows_are_densest_is_named() -> None:
    """Of class 0 one row of four is suspicious, of class 1 three of sixteen."""
    none = torch.zeros(20, dtype=torch.float64)
    data = Samples(torch.zeros(20, 1, 2, 2), (torch.arange(20) >= 4).long(), 2, ("bag", "coat"))
    found = Screened("made up", data, 1.0, {"screening.strip": none}, [0, 5, 6, 7], {})
    said = first(found)
    assert said.startswith(
        "Look first at 'bag': 1 of its 4 rows are suspicious, 25.0%, beside 18.8% of all others."
    )
    assert said in " ".join(html(found).replace("&#39;", "'").split())
    assert first(Screened("made up", data, 1.0, {}, [], {})) == "No row is to be looked at first."


def test_each_screening_has_a_number_of_classes_of_its_own() -> None:
    strip, clusters = GROUPS
    assert [set(unfit(n)) for n in (5, 6, 7, 8)] == [{strip, clusters}, {strip}, {strip}, set()]
    assert "it needs 8 classes, and there are 7" in unfit(7)[strip]


def test_losses_and_neighbours_count_only_together() -> None:
    """Row 0 is raised by one of the groups, 1 by both of the pair, 2 by losses alone, 3 by nothing."""
    scores = {name: torch.zeros(4, dtype=torch.float64) for name in GROUPS}
    scores["screening.strip"][0] = 1.5
    scores["screening.high_loss"] = torch.tensor([0.0, 2.0, 9.0, 0.5], dtype=torch.float64)
    scores["screening.deep_knn"] = torch.tensor([0.0, 1.1, 0.5, 0.5], dtype=torch.float64)
    assert ranked(scores, 4) == [1, 0]


def test_data_without_two_classes_or_enough_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="two classes"):
        screen((np.random.default_rng(0).random((30, 4), np.float32), np.zeros(30, np.int64)))


def test_a_wrong_specification_exits_with_two(capsys) -> None:
    assert run(["screen", "npz:nowhere.npz"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_bounds_the_wrong_way_round_are_refused(capsys) -> None:
    for text in ("1,0", "1,1", "nan,1"):
        assert run(["screen", "builtin:digits", "--bounds", text]) == 2
        assert "LOW < HIGH" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_noticed_before_any_training(
    tmp_path: Path, capsys, monkeypatch
) -> None:
    def never(*args, **settings):
        raise AssertionError("nothing is screened here")

    monkeypatch.setattr("casemate.assess.screen.screen", never)
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        assert run(["screen", "builtin:digits", "--out", str(tmp_path / out)]) == 2
        assert "--out must be a folder" in capsys.readouterr().err


def test_a_folder_that_is_not_there_yet_will_do(tmp_path: Path) -> None:
    check(tmp_path / "one" / "two")
    assert not list(tmp_path.iterdir())
