"""An assessment from its arguments to its folder: what is kept, and what is refused before anything runs."""

import pytest

from casemate.assess.assessment import Options, assess
from casemate.assess.plan import Ask, Plan, Threat
from casemate.assess.result import Requirement
from casemate.core.errors import UsageError

FGSM, PGD = Ask(method="evasion.fgsm"), Ask(method="evasion.pgd", params={"steps": 2})


def pixels(*attacks, **settings):
    return Threat(
        id="pixels", title="Small changes", family="evasion", attacks=attacks,
        require=Requirement(metric="robust_accuracy", at_least=0.5), **settings,
    )  # fmt: skip


def trigger(**params):
    return Threat(
        id="trigger", title="A trigger", family="backdoor", rates=(0.01,),
        attacks=(Ask(method="backdoor.badnets", params=params),),
        require=Requirement(metric="attack_success", at_most=0.1),
    )  # fmt: skip


def run(out, *threats, only=None, **options):
    plan = Plan(name="small", rows=20, threats=threats)
    return assess(plan=plan, options=Options(workers=1, **options), out=out, only=only)


@pytest.mark.parametrize("chain", [False, True])
def test_only_keeps_the_answers_that_the_folder_has(tmp_path, chain):
    """The second run asks one attack again; the report still rests on both, and no file is computed anew."""
    threat = pixels(FGSM, PGD, chain=chain)
    whole = run(tmp_path, threat)
    files = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    for name in ("evasion.pgd", "evasion.fgsm"):
        part = run(tmp_path, threat, only=name)
        assert part.keys == whole.keys
        assert part.verdicts == whole.verdicts
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == files


def test_only_names_what_has_no_answer_yet_and_adds_to_what_has(tmp_path):
    threat = pixels(FGSM, PGD, chain=True)
    (first,) = run(tmp_path, threat, only="evasion.pgd").verdicts
    assert first.not_tried == (("evasion.fgsm", "left out by --only 'evasion.pgd'"),)
    (second,) = run(tmp_path, threat, only="evasion.fgsm").verdicts
    assert len(second.tried) == 2
    assert second.not_tried == ()


def test_a_pattern_that_matches_nothing_is_refused_although_the_folder_has_answers(tmp_path):
    run(tmp_path, pixels(FGSM))
    with pytest.raises(UsageError, match="matches no method"):
        run(tmp_path, pixels(FGSM), only="evasion.none")


def test_a_class_that_is_not_there_is_refused_before_anything_runs_and_leaves_no_folder(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError) as caught:
        run(out, pixels(FGSM), trigger(target=10))
    assert str(caught.value) == (
        "The 'target' of backdoor.badnets in 'trigger' must be one of the classes 0 .. 9. Got 10."
    )
    assert not out.exists()


def test_a_class_without_training_rows_cannot_be_poisoned(tmp_path, monkeypatch):
    """The labels reach from 0 to 2, and no row has label 1."""
    (tmp_path / "few.py").write_text(
        "import torch\n"
        "def data():\n"
        "    x, y = torch.rand(40, 1, 28, 28), torch.tensor([0, 2] * 20)\n"
        "    return x, y, x, y\n"
    )
    with pytest.raises(UsageError, match=r"one of the classes 0, 2\. Got 1\."):
        run(tmp_path / "out", trigger(target=1), data=f"{tmp_path / 'few.py'}:data")


@pytest.mark.parametrize(
    "wrong", [{"data": "npz:absent.npz"}, {"model": "absent.py:net"}], ids=["data", "model"]
)
def test_a_refused_run_leaves_no_folder(tmp_path, wrong):
    with pytest.raises(UsageError):
        run(tmp_path / "out", pixels(FGSM), **wrong)
    assert not (tmp_path / "out").exists()
