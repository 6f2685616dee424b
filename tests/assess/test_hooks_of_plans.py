import pytest

from casemate.assess.assessment import assess
from casemate.assess.case import Case
from casemate.assess.plan import Ask, Threat, adapting, read_plan
from casemate.assess.presets import preset
from casemate.assess.result import Requirement
from casemate.core.adaptive import Hooks
from casemate.core.errors import UsageError

FOUND = Hooks(eot=20, bpda=("auto",), answers=20)


def threat(**settings):
    return Threat(
        id="e", title="E", family="evasion", require=Requirement(metric="robust_accuracy", at_least=0.5),
        attacks=(Ask(method="evasion.pgd"),), **settings,
    )  # fmt: skip


def test_without_a_word_in_the_plan_the_checks_decide():
    assert threat().hooks(Ask(method="evasion.pgd"), FOUND) == FOUND


def test_the_attack_overrules_the_threat_and_the_threat_the_checks():
    asked = Ask(method="evasion.pgd", eot=3)
    assert threat(eot=5, bpda="net.0").hooks(asked, FOUND) == Hooks(eot=3, bpda=("net.0",), answers=20)
    assert threat(bpda=()).hooks(Ask(method="evasion.pgd"), FOUND) == Hooks(eot=20, answers=20)


def test_a_plan_file_names_hooks(tmp_path):
    path = tmp_path / "plan.toml"
    text = """
[[threats]]
id = "e"
title = "E"
family = "evasion"
eot = 7
bpda = "auto"
attacks = ["evasion.fgsm", { method = "evasion.pgd", bpda = ["net.*"] }]
require = { metric = "robust_accuracy", at_least = 0.5 }
"""
    path.write_text(text)
    read = read_plan(path).threats[0]
    assert (read.eot, read.bpda, read.attacks[1].bpda) == (7, ("auto",), ("net.*",))
    path.write_text(text.replace("eot = 7", "eot = 0"))
    with pytest.raises(UsageError, match="eot"):
        read_plan(path)


def test_options_of_a_run_reach_the_evasion_threats_alone():
    plan = adapting(preset("quick"), 9, ("auto",))
    said = {t.family: (t.eot, t.bpda) for t in plan.threats}
    assert said["evasion"] == (9, ("auto",))
    assert said["backdoor"] == (None, None)
    assert adapting(preset("quick"), None, None) == preset("quick")


def test_hooks_tell_cases_apart_and_none_keeps_the_key():
    settings = dict(method="evasion.pgd", version=1, data="d", rows=3)
    plain = Case(**settings)
    assert Case(**settings, hooks=Hooks()).key == plain.key
    assert Case(**settings, hooks=Hooks(eot=2)).key != plain.key
    assert "hooks" in plain.model_dump()


def test_a_pattern_that_matches_no_layer_stops_the_run_before_it_begins(tmp_path):
    plan = preset("quick").model_copy(update={"threats": (threat(bpda="nowhere.*"),)})
    with pytest.raises(UsageError, match=r"No layer of the net matches 'nowhere\.\*'"):
        assess(plan=plan, out=tmp_path / "out", rows=4)
    assert not list((tmp_path / "out").glob("results/*.json"))
