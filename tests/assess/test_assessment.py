"""An assessment from its arguments to its folder: what is kept, and what is refused before anything runs."""

import pytest

from casemate.assess.assessment import UNKNOWN, Options, assess
from casemate.assess.plan import Ask, Plan, Threat
from casemate.assess.presets import preset
from casemate.assess.result import Requirement
from casemate.assess.store import Store
from casemate.core.errors import UsageError
from casemate.report import build

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


def run(out, *threats, only=None, command="", **options):
    plan = Plan(name="small", rows=20, threats=threats)
    return assess(plan=plan, options=Options(workers=1, **options), out=out, only=only, command=command)


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


@pytest.mark.parametrize("status", ["skipped", "failed"])
def test_only_keeps_what_was_skipped_or_failed_before_and_does_not_run_it_again(tmp_path, status):
    """The folder says that one attack did not come to an end; only who asks for that attack tries it again."""
    threat, files = pixels(FGSM, PGD), of_three_classes(tmp_path)
    whole = run(tmp_path / "out", threat, **files)
    store = Store(tmp_path / "out")
    pgd = store.all()[1].model_copy(update={"status": status, "reason": "so it is", "evidence": ()})
    store.put(pgd)
    (part,) = run(tmp_path / "out", threat, only="evasion.fgsm", **files).verdicts
    assert part.not_tried == (("evasion.pgd", "so it is"),)
    assert store.all()[1] == pgd
    assert run(tmp_path / "out", threat, only="evasion.pgd", **files).verdicts == whole.verdicts


def test_a_folder_that_grew_names_all_commands(tmp_path):
    """Once each, in their order; a whole run needs none of the earlier ones, and what is unknown is said."""
    threat, files, out = pixels(FGSM, PGD), of_three_classes(tmp_path), tmp_path / "out"
    first, second, third = (
        f"casemate assess --only {name}" for name in ("evasion.fgsm", "evasion.pgd", "pixels")
    )
    assert run(out, threat, only="evasion.fgsm", command=first, **files).command == first
    assert run(out, threat, only="evasion.pgd", command=second, **files).command == f"{first}\n{second}"
    page, text = (path.read_text() for path in build(out, ["html", "md"]))
    for report in (page, text):
        assert f"{first}\n" in report
        assert second in report
        assert "grew over several commands" in report
    (out / "assessment.json").unlink()
    assert run(out, threat, only="evasion.pgd", command=second, **files).command == f"{UNKNOWN}\n{second}"
    (out / "assessment.json").unlink()
    assert run(out, threat, only="pixels", command=third, **files).command == third


def test_a_pattern_that_matches_nothing_is_refused_although_the_folder_has_answers(tmp_path):
    run(tmp_path, pixels(FGSM))
    with pytest.raises(UsageError, match="matches no method"):
        run(tmp_path, pixels(FGSM), only="evasion.none")


def test_a_class_that_is_not_there_is_refused_before_anything_runs_and_leaves_no_folder(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError) as caught:
        run(out, pixels(FGSM), trigger(target=10))
    assert str(caught.value) == (
        "The 'target' of backdoor.badnets in 'trigger' must be one of the classes 0 .. 9 of the training rows. Got 10."
    )
    assert not out.exists()


def of_three_classes(folder):
    """Pictures whose labels are 1, 2 and 3, a net that could answer 0 as well, and its recipe."""
    (folder / "few.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from casemate.core.recipe import Recipe\n"
        "def data():\n"
        "    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "    y = torch.arange(60) % 3 + 1\n"
        "    return x, y, x, y\n"
        "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    return make()\n"
        "def recipe(): return Recipe(make, 'line', epochs=1, batch=32)\n"
    )
    return {name: f"{folder / 'few.py'}:{does}" for name, does in OBJECTS.items()}


OBJECTS = {"data": "data", "model": "net", "recipe": "recipe"}


def test_a_class_without_training_rows_is_refused_where_the_plan_names_it(tmp_path):
    """Also in a setting of another name; not in a threat that is left out."""
    specific = {"goal": "specific", "source": 1, "wish": 0}
    backwards = Threat(
        id="backwards", title="One error", family="poisoning", rates=(0.1,),
        attacks=(Ask(method="poisoning.back_gradient", params=specific),),
        require=Requirement(metric="accuracy_drop", at_most=0.1),
    )  # fmt: skip
    files = of_three_classes(tmp_path)
    with pytest.raises(
        UsageError, match=r"'target' .* one of the classes 1, 2, 3 of the training rows\. Got 0\."
    ):
        run(tmp_path / "out", trigger(target=0), **files)
    with pytest.raises(
        UsageError, match=r"'wish' .* one of the classes 1, 2, 3 of the training rows\. Got 0\."
    ):
        run(tmp_path / "out", backwards, **files)
    found = run(tmp_path / "out", pixels(FGSM), trigger(target=0), only="pixels", **files)
    assert [v.outcome for v in found.verdicts][1] == "not_tested"


@pytest.mark.parametrize("name", ["quick", "standard", "thorough"])
def test_presets_run_on_data_without_class_0(tmp_path, name):
    """What they leave open may be class 0 by default, which nobody named."""
    plan, files = preset(name), of_three_classes(tmp_path)
    found = assess(
        plan=plan, options=Options(workers=1, **files), out=tmp_path / "out", only="membership.loss"
    )
    assert found.verdicts


def test_a_poison_that_changes_no_row_is_not_tested_and_never_holds(tmp_path):
    """Clean-label poisons of class 0, the default, have no row to take: their victims would be the clean ones."""
    threat = trigger().model_copy(update={"attacks": (Ask(method="backdoor.clean_label"),), "rates": (0.1,)})
    (verdict,) = run(tmp_path / "out", threat, **of_three_classes(tmp_path)).verdicts
    assert verdict.outcome == "not_tested"
    assert verdict.why == "backdoor.clean_label finds no training row of class 0 to change"


@pytest.mark.parametrize(
    "wrong", [{"data": "npz:absent.npz"}, {"model": "absent.py:net"}], ids=["data", "model"]
)
def test_a_refused_run_leaves_no_folder(tmp_path, wrong):
    with pytest.raises(UsageError):
        run(tmp_path / "out", pixels(FGSM), **wrong)
    assert not (tmp_path / "out").exists()
