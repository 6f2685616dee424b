import pytest

from casemate.cli.main import run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["make", "nowhere", "--out", "x"], "must hold an assessment"),
        (["make", "builtin"], "--out"),
        (["make", "builtin", "--out", "x", "--count", "1"], "--count"),
        (["make", "builtin", "--out", "x", "--surrogates", "oracle"], "must be of"),
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
    arguments = ["make", "builtin", "--out", str(tmp_path), "--count", "9", "--surrogates", "mlp"]
    assert run(["human-study", *arguments]) == 0
    said = capsys.readouterr().out
    assert "of 27 pictures of alike classes that all of 2 nets got right" in said
    text = (tmp_path / "human-study.html").read_text()
    assert text.count('"target"') == 8, "whole rounds of four conditions"
    assert said.splitlines()[0] in text, "the page says how its pictures were chosen"
    assert "http" not in text.replace("http-equiv", "")
