"""The commands from the user's chair: as processes where that matters, else by `run`."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import casemate
from casemate.cli.main import run

COMMAND = [sys.executable, "-m", "casemate"]


def call(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, **settings)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """Run a command here: exit code, output, errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_help_is_quick_and_waits_for_no_torch():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = call("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(
        name in done.stdout for name in ("assess", "harden", "compare", "report", "list", "show", "prove")
    )
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["assess", "--help"], ["nonsense"]])
def test_torch_is_not_imported_before_it_is_needed(arguments: Sequence[str]):
    code = (
        "import sys; from casemate.cli.main import run\n"
        f"run({arguments!r})\n"
        "assert not {'torch', 'numpy', 'rich.table'} & set(sys.modules), 'imported too early'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_is_told(said):
    from importlib.metadata import version

    assert said("--version") == (0, f"casemate {version('casemate')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["asess"], "No such command 'asess'. Did you mean 'assess'? See 'casemate --help'."),
        (["assess", "--preset", "fast"], "'--preset': 'fast' is not one of 'quick', 'standard', 'thorough'"),
        (["assess", "--rows", "0"], "'--rows'"),
        (["assess", "--rows", "many"], "'--rows'"),
        (["assess", "--fail-on", "holds"], "'--fail-on': 'holds' is not one of"),
        (["assess", "--nonsense"], "No such option: --nonsense"),
        (["assess", "plan.toml", "--preset", "quick"], "Give a plan or --preset, not both"),
        (["assess", "plan.yaml"], "must be a .toml file. Got plan.yaml"),
        (["assess", "nowhere.toml"], "The plan nowhere.toml cannot be read"),
        (["assess", "--bounds", "0"], "--bounds must be two numbers, LOW,HIGH. Got '0'"),
        (
            ["assess", "--mean", "a,b"],
            "--mean must be numbers between commas, such as 0.49,0.48,0.45. Got 'a,b'",
        ),
        (["assess", "--model", "net.py:build"], "give --data as well"),
        (["assess", "--data", "npz:nowhere.npz"], "The file of 'npz:nowhere.npz' does not exist"),
        (["assess", "--model", "nowhere.onnx", "--data", "builtin:digits"], "there is no such file"),
        (["assess", "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N. Got 'tpu'"),
        (["report"], "Missing argument"),
        (["report", "nowhere"], "must hold an assessment. Got nowhere, without an assessment.json"),
        (["report", "nowhere", "--format", "pdf"], "'--format': 'pdf' is not one of"),
        (["harden", "nowhere"], "must hold an assessment"),
        (["compare", "nowhere", "elsewhere"], "must hold an assessment"),
        (["list", "evasions"], "'evasions' is not one of"),
        (["show", "no such attack"], "No method is called 'no such attack'"),
        (["prove"], "Name the methods to prove, or give --all"),
        (["prove", "no such attack"], "No method is called 'no such attack'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(said, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(*arguments)
    lines = [line for line in err.splitlines() if not line.startswith(("casemate: loading", "Loading "))]
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert told in lines[0]
    assert lines[0].startswith("casemate: ")


def test_wrong_use_shows_no_traceback_in_a_process(tmp_path):
    done = call("show", "pgdd", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Nearest: evasion.pgd" in done.stderr


def test_the_list_is_readable_by_people_and_machines(said):
    code, out, _ = said("list")
    assert code == 0
    assert "evasion.pgd" in out
    methods = json.loads(said("list", "--json")[1])
    assert {m["id"] for m in methods} == {e.id for e in casemate.entries()}
    (pgd,) = (m for m in methods if m["id"] == "evasion.pgd")
    assert pgd["access"] == "gradients"
    assert {"name", "choices", "default", "required", "help"} == set(pgd["parameters"][0])
    assert {m["family"] for m in json.loads(said("list", "evasion", "--json")[1])} == {"evasion"}


def test_every_method_is_shown_by_every_name_it_is_known_by(said):
    for entry in casemate.entries():
        for name in (entry.id, *entry.known_as):
            code, out, _ = said("show", name)
            assert code == 0
            assert out.startswith(entry.id)
    assert said("show", "PGD")[1].startswith("evasion.pgd")


def test_show_prints_summary_threat_model_defaults_papers_and_defences(said):
    code, out, _ = said("show", "evasion.pgd")
    entry = casemate.find("evasion.pgd")
    assert code == 0
    assert entry.summary in out
    assert "white box" in out
    assert "steps" in out
    assert entry.papers[0].title in out
    assert "automatic  " in out
    assert "automatic means" in out
    assert "Defences against attacks of this family, not all of which help here: training." in " ".join(
        out.split()
    )
    shown = json.loads(said("show", "evasion.pgd", "--json")[1])
    assert shown["id"] == "evasion.pgd"
    assert all(d.startswith(("training.", "serving.")) for d in shown["defences"])


def test_show_names_the_words_that_a_setting_may_take(said):
    assert "One of: 'random', 'hardest'." in " ".join(said("show", "backdoor.narcissus")[1].split())
    shown = {
        p["name"]: p["choices"]
        for p in json.loads(said("show", "backdoor.narcissus", "--json")[1])["parameters"]
    }
    assert shown["choice"] == ["random", "hardest"]
    assert shown["eps"] == []


def test_defences_of_malware_are_shown_with_attacks_on_malware_only(said):
    for entry in casemate.entries():
        shown = json.loads(said("show", entry.id, "--json")[1])["defences"]
        assert ("training.malware_retraining" in shown) == (entry.family == "malware")
        assert ("training.adversarial" in shown) == (
            entry.family in ("evasion", "universal", "semantic", "physical")
        )


def test_screenings_are_shown_with_the_attacks_that_they_can_see(said):
    """Losses and neighbours are blind to backdoors; neighbours find clean-label poisons aimed at one input."""
    wanted = {
        "poisoning.label_flip": {"screening.high_loss", "screening.deep_knn"},
        "targeted.feature_collision": {"screening.deep_knn"},
        "backdoor.badnets": {"screening.strip", "screening.spectral", "screening.activation_clustering"},
    }
    for name, seen in wanted.items():
        shown = json.loads(said("show", name, "--json")[1])["defences"]
        assert {d for d in shown if d.startswith("screening.")} == seen


def test_a_reader_that_has_had_enough_is_no_error():
    listing = subprocess.Popen([*COMMAND, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    listing.stdout.close()
    assert b"Traceback" not in listing.stderr.read()
    listing.stderr.close()
    listing.wait()


@pytest.fixture(scope="module")
def assessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished assessment of a few rows of the built-in target by two quick attacks."""
    out = tmp_path_factory.mktemp("assessed") / "out"
    done = call("assess", "--rows", "30", "--only", "evasion.[fp]g*", "--out", str(out), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (out / "stdout").write_text(done.stdout)
    (out / "stderr").write_text(done.stderr)
    return out


def test_an_assessment_leaves_results_and_a_report_and_says_where(assessed):
    out = (assessed / "stdout").read_text()
    assert f"Report: {assessed / 'report.html'}" in out
    assert "Small changes of every value" in out
    assert "not tested" in out
    assert (assessed / "report.html").stat().st_size > 10_000
    assert len(list((assessed / "results").glob("*.json"))) == 2


def test_progress_is_plain_lines_where_nobody_watches(assessed):
    lines = (assessed / "stderr").read_text().splitlines()
    assert lines[0] == "casemate: loading"
    assert [line for line in lines if line.startswith("[2/2] evasion.pgd: accuracy under attack")]
    assert not any("\x1b" in line for line in lines)


def test_a_second_run_answers_from_what_is_kept_and_writes_the_same_bytes(assessed, said):
    before = {p.name: p.read_bytes() for p in (assessed / "results").iterdir()}
    code, _, err = said(
        "assess", "--rows", "30", "--only", "evasion.[fp]g*", "--out", str(assessed), "--device", "cpu"
    )
    assert code == 0
    assert err.count("(kept): accuracy under attack") == 2
    assert {p.name: p.read_bytes() for p in (assessed / "results").iterdir()} == before


@pytest.mark.parametrize(("fail_on", "exit_code"), [("falls", 1), ("inconclusive", 1)])
def test_the_gate_fails_where_the_target_falls(assessed, said, fail_on, exit_code):
    code, out, _ = said(
        "assess", "--rows", "30", "--only", "evasion.[fp]g*", "--out", str(assessed), "--fail-on", fail_on,
        "--device", "cpu",
    )  # fmt: skip
    assert code == exit_code
    assert f"Gate --fail-on {fail_on} failed: evasion-linf (falls)" in out


def test_reports_are_written_in_other_forms(assessed, said):
    code, out, _ = said("report", str(assessed), "--format", "md", "--format", "junit")
    assert code == 0
    assert [Path(line).name for line in out.splitlines()] == ["report.md", "report.junit.xml"]
    assert all(Path(line).exists() for line in out.splitlines())


def test_an_assessment_compared_with_itself_has_not_changed(assessed, said):
    code, out, _ = said("compare", str(assessed), str(assessed))
    assert code == 0
    assert "no clear difference" in out
    rows = json.loads(said("compare", str(assessed), str(assessed), "--json")[1])
    assert {row["change"] for row in rows} == {"no clear difference"}


def test_a_model_and_data_of_the_user_are_assessed(tmp_path, said, monkeypatch):
    """A linear net of 2 classes on 40 rows that it separates by 0.1: linf 0.3 must fool it."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch\n"
        "def net():\n"
        "    net = torch.nn.Linear(2, 2)\n"
        "    net.weight.data = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])\n"
        "    net.bias.data = torch.tensor([0.5, -0.5])\n"
        "    return net\n"
    )
    x = np.random.default_rng(0).random((40, 2)).astype(np.float32)
    x[:, 0] = np.where(x[:, 0] > 0.5, 0.6, 0.4)
    np.savez("data.npz", x=x, y=(x[:, 0] > 0.5).astype(int))
    Path("plan.toml").write_text(
        'rows = 40\n[[threats]]\nid = "small"\ntitle = "Small changes"\nfamily = "evasion"\nnorm = "linf"\neps = 0.3\n'
        'attacks = ["evasion.fgsm"]\nrequire = { metric = "robust_accuracy", at_least = 0.5 }\n'
    )
    code, out, err = said(
        "assess", "plan.toml", "--model", "mine.py:net", "--data", "npz:data.npz", "--fail-on", "falls"
    )
    assert code == 1, err
    assert "accuracy under attack 0.0%" in out
    found = casemate.read("out")
    assert (found.target, found.data) == ("mine.py:net", "npz:data.npz")
    assert (
        found.command == "casemate assess plan.toml --model mine.py:net --data npz:data.npz --fail-on falls"
    )


@pytest.mark.slow
def test_an_interrupted_assessment_goes_on_where_it_stopped(tmp_path):
    arguments = [
        "assess",
        "--rows",
        "120",  # enough that the signal comes before the end
        "--only",
        "evasion.*",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background lets them inherit a SIGINT that is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stderr:
        if line.startswith("[2/"):
            process.send_signal(signal.SIGINT)
            break
    err = process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 130
    assert "Traceback" not in err
    assert "finished cases are kept in" in err
    assert "The same command goes on from there." in err
    again = call(*arguments)
    assert again.returncode == 0
    assert "(kept): " in again.stderr


def test_the_environment_needs_no_home(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "HOME"}
    assert call("--version", env=environment, cwd=tmp_path).returncode == 0


def test_a_stopped_proof_says_what_is_done(said, monkeypatch):
    from casemate import library

    first = next(library.prove(["fgsm"], workers=1))

    def stopped(*args: object, **kwargs: object):
        yield first
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "prove", stopped)
    code, out, _ = said("prove", "--all", "--json")
    assert code != 0
    assert [proof["id"] for proof in json.loads(out)] == ["evasion.fgsm"]
