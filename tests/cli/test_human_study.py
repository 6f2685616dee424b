import pytest

from casemate.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["make", "nowhere", "--out", "x"], "must hold an assessment"),
        (["make", "builtin"], "--out"),
        (["make", "builtin", "--out", "x", "--count", "1"], "--count"),
        (["score", "missing.json"], "cannot be read"),
        (["score"], "FILE"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["human-study", *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_the_built_in_study_is_one_page_with_all_conditions(tmp_path, capsys):
    assert run(["human-study", "make", "builtin", "--out", str(tmp_path), "--count", "9"]) == 0
    text = (tmp_path / "human-study.html").read_text()
    assert text.count('"target"') == 8, "whole rounds of four conditions"
    assert "http" not in text.replace("http-equiv", "")
