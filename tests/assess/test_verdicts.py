import torch

from casemate.assess.case import Case
from casemate.assess.checks import black_box_wins, transfer_wins
from casemate.assess.plan import Ask, Threat
from casemate.assess.result import Flag, Requirement, Result
from casemate.assess.store import Store
from casemate.assess.verdicts import draw, overtaken
from casemate.core.adaptive import Hooks
from casemate.core.threat import Lp
from casemate.ops.stats import share

EVASION = Threat(
    id="pixels", title="Small changes", family="evasion", eps=0.1,
    attacks=(Ask(method="evasion.fgsm"), Ask(method="evasion.pgd")),
    require=Requirement(metric="robust_accuracy", at_least=0.5),
)  # fmt: skip


def stored(store: Store, method: str, standing: list[bool], right=None, **changes) -> Result:
    case = Case(method=method, version=1, data="d", budget=Lp(norm="linf", eps=0.1), rows=len(standing))
    left = torch.tensor(standing)
    settings = dict(
        status="done", metrics={"robust_accuracy": share(int(left.sum()), len(left))},
        baseline={"robust_accuracy": share(len(left), len(left))}, clean={"accuracy": share(len(left), len(left))},
    )  # fmt: skip
    result = Result(key=case.key, case=case, **{**settings, **changes})
    return store.put(result, {"standing": left, "clean_correct": clean_correct(left, right)})


def clean_correct(left: torch.Tensor, right: list[bool] | None) -> torch.Tensor:
    return torch.ones_like(left) if right is None else torch.tensor(right)


def verdict(store, results, checks=(), threat=EVASION):
    return draw(threat, results, store, checks, (1, 28, 28))


def test_the_verdict_counts_rows_that_stand_after_every_attack(tmp_path):
    """90 rows stand after each of two attacks, but only 80 after both."""
    store = Store(tmp_path)
    a = stored(store, "evasion.fgsm", [False] * 10 + [True] * 90)
    b = stored(store, "evasion.pgd", [True] * 90 + [False] * 10)
    drawn = verdict(store, [a, b])
    assert drawn.measured == share(80, 100)
    assert drawn.outcome == "holds"
    assert set(drawn.tried) == {a.key, b.key}


def test_falls_needs_only_examples(tmp_path):
    store = Store(tmp_path)
    a = stored(store, "evasion.pgd", [True] * 10 + [False] * 90)
    assert verdict(store, [a], [Flag(code="zero-gradient")]).outcome == "falls"


def test_G2_holds_needs_every_check_to_have_passed(tmp_path):
    store = Store(tmp_path)
    a = stored(store, "evasion.pgd", [True] * 100)
    assert verdict(store, [a]).outcome == "holds"
    drawn = verdict(store, [a], [Flag(code="zero-gradient")])
    assert drawn.outcome == "inconclusive"
    assert "zero-gradient" in drawn.why


def test_an_attack_that_crashed_forbids_holds_and_is_listed(tmp_path):
    store = Store(tmp_path)
    a = stored(store, "evasion.fgsm", [True] * 100)
    case = Case(method="evasion.pgd", version=1, data="d", rows=100)
    b = Result(key=case.key, case=case, status="failed", reason="RuntimeError: boom")
    drawn = verdict(store, [a, b])
    assert drawn.outcome == "inconclusive"
    assert drawn.not_tried == (("evasion.pgd", "RuntimeError: boom"),)


def test_R8_what_was_not_tested_never_holds(tmp_path):
    case = Case(method="evasion.pgd", version=1, data="d", rows=100)
    skipped = Result(key=case.key, case=case, status="skipped", reason="needs gradients")
    drawn = verdict(Store(tmp_path), [skipped])
    assert (drawn.outcome, drawn.why, drawn.measured) == ("not_tested", "needs gradients", None)


def test_too_few_rows_decide_nothing_good(tmp_path):
    store = Store(tmp_path)
    drawn = verdict(store, [stored(store, "evasion.pgd", [True] * 40)])
    assert drawn.outcome == "inconclusive"
    assert "few-rows" in {f.code for f in drawn.flags}


def test_a_black_box_that_beats_the_white_box_is_flagged():
    white = torch.tensor([True] * 20 + [False] * 10)
    black = torch.tensor([False] * 6 + [True] * 24)
    (flag,) = black_box_wins({"w": white, "b": black}, ["w"], ["b"])
    assert flag.code == "black-box-beats-white-box"
    assert black_box_wins({"w": white & black, "b": black}, ["w"], ["b"]) == []


def evidence(rows, standing, right=None):
    left = torch.tensor(standing)
    return {"rows": torch.tensor(rows), "standing": left, "clean_correct": clean_correct(left, right)}


def test_a_transfer_that_beats_the_white_box_is_flagged_on_the_rows_that_both_attacked():
    """Gradients fool rows 0-3, the transfer rows 2-8, so rows 4-8 are what gradients missed, 5 of 9.

    With row 8 not attacked by gradients, or wrong without an attack, 4 are left, which may be chance.
    """
    white = evidence(range(10), [False] * 4 + [True] * 6)
    moved = evidence(range(10), [True] * 2 + [False] * 7 + [True])
    (flag,) = transfer_wins([white], [moved])
    assert (flag.code, flag.detail.split()[0]) == ("transfer-beats-white-box", "5")
    assert transfer_wins([white, moved], [moved]) == []
    assert transfer_wins([{name: v[:8] for name, v in white.items()}], [moved]) == []
    assert (
        transfer_wins([white], [evidence(range(10), moved["standing"].tolist(), [True] * 8 + [False] * 2)])
        == []
    )


def test_transfer_is_compared_with_gradients_in_the_same_ball_or_a_larger_one(tmp_path):
    """All rows fell to the transfer at 0.1 and none to PGD, which must have had 0.1 or more and the norm."""
    store = Store(tmp_path)

    def result(method, standing, **changes):
        case = Case(method=method, version=1, data="d", rows=20, **changes)
        kept = Result(key=case.key, case=case, status="done", metrics={}, baseline={}, clean={})
        return store.put(kept, evidence(range(20), [standing] * 20))

    moved = result("evasion.mi_fgsm", False, budget=Lp(norm="linf", eps=0.1), crafted_on=("net:digest",))
    for norm, eps, doubted in (("linf", 0.1, 1), ("linf", 0.2, 1), ("linf", 0.05, 0), ("l2", 0.1, 0)):
        white = result("evasion.pgd", True, budget=Lp(norm=norm, eps=eps))
        assert len(overtaken([white, moved], store)) == doubted
    black = result("evasion.square", True, budget=Lp(norm="linf", eps=0.1))
    assert overtaken([black, moved], store) == []


def test_the_worst_rate_decides_and_all_rates_make_a_curve_per_attack(tmp_path):
    """Two attacks at two rates each; the second asks for a trigger of another size as well, at one rate."""
    threat = Threat(
        id="patch", title="Trigger", family="backdoor", attacks=(Ask(method="backdoor.badnets"),),
        rates=(0.01, 0.1), require=Requirement(metric="attack_success", at_most=0.1),
    )  # fmt: skip
    results = []
    asked = [
        ("badnets", {}, 0.1, 99),
        ("badnets", {}, 0.01, 5),
        ("wanet", {}, 0.1, 20),
        ("wanet", {}, 0.01, 2),
    ]
    asked += [("badnets", {"patch": 2}, 0.1, 7), ("badnets", {"patch": 2}, 0.01, 3), ("blended", {}, 0.1, 3)]
    for name, params, rate, hits in asked:
        case = Case(method=f"backdoor.{name}", version=1, params=params, data="d", rows=100, rate=rate)
        metrics, idle = ({"attack_success": share(n, 100)} for n in (hits, 1))
        results.append(
            Result(key=case.key, case=case, status="done", metrics=metrics, baseline=idle, clean={})
        )
    drawn = verdict(Store(tmp_path), results, threat=threat)
    assert drawn.outcome == "falls"
    assert drawn.measured == share(99, 100)
    assert drawn.curves["badnets"].x == [0.01, 0.1]
    assert {name: curve.y for name, curve in drawn.curves.items() if "random" not in name} == {
        "badnets": [0.05, 0.99], "wanet": [0.02, 0.2], "badnets, patch 2": [0.03, 0.07]
    }  # fmt: skip
    assert drawn.curves["wanet, random baseline"].y == [0.01, 0.01]
    assert drawn.budget == "1%, 10% of the training rows"


def test_an_attack_that_was_left_out_forbids_holds_and_is_listed(tmp_path):
    store = Store(tmp_path)
    a = stored(store, "evasion.fgsm", [True] * 100)
    drawn = draw(EVASION, [a], store, (), (1, 28, 28), [("evasion.pgd", "left out")])
    assert drawn.outcome == "inconclusive"
    assert drawn.not_tried == (("evasion.pgd", "left out"),)


def test_the_access_is_that_of_the_attacks_that_ran(tmp_path):
    """PGD is planned as well, but cannot run on a black box: nobody has used gradients."""
    store = Store(tmp_path)
    a = stored(store, "evasion.square", [True] * 100)
    case = Case(method="evasion.pgd", version=1, data="d", rows=100)
    skipped = Result(key=case.key, case=case, status="skipped", reason="needs gradients")
    assert verdict(store, [a, skipped]).access == "scores"


def test_rows_wrong_without_attack_do_not_hide_a_black_box_that_beats_the_white_box(tmp_path):
    """Six of the ten rows that fell, fell to the black box only; 190 rows were wrong from the start."""
    store = Store(tmp_path)
    right = [False] * 190 + [True] * 110
    white = [False] * 190 + [False] * 4 + [True] * 106
    black = [False] * 190 + [True] * 4 + [False] * 6 + [True] * 100
    drawn = verdict(
        store, [stored(store, "evasion.pgd", white, right), stored(store, "evasion.square", black, right)]
    )
    assert "black-box-beats-white-box" in {f.code for f in drawn.flags}


def test_a_model_that_is_wrong_without_an_attack_is_told_apart_from_one_that_was_fooled(tmp_path):
    wrong = stored(
        Store(tmp_path), "evasion.fgsm", [True] * 10 + [False] * 90, clean={"accuracy": share(10, 100)}
    )
    fooled = stored(Store(tmp_path), "evasion.pgd", [True] * 10 + [False] * 90)
    said = [verdict(Store(tmp_path), [result]) for result in (wrong, fooled)]
    assert [v.outcome for v in said] == ["falls", "falls"]
    assert ["without an attack" in v.why for v in said] == [True, False]


def test_S5_one_answer_per_input_of_a_target_that_answers_at_random_decides_nothing(tmp_path):
    store = Store(tmp_path)
    for standing in ([True] * 100, [False] * 100):
        drawn = verdict(store, [stored(store, "evasion.pgd", standing)], [Flag(code="randomised")])
        assert drawn.outcome == "inconclusive"
        assert "at random" in drawn.why


def answered(store, standing, always, eot=20):
    """A result judged by several answers: rows that most answers, and that all answers get right."""
    hooks = Hooks(eot=eot, answers=20)
    case = Case(
        method="evasion.pgd", version=1, data="d", budget=Lp(norm="linf", eps=0.1), rows=100, hooks=hooks
    )
    kept, strict = (torch.arange(100) < n for n in (standing, always))
    result = Result(key=case.key, case=case, status="done", metrics={"robust_accuracy": share(standing, 100)},
                    baseline={"robust_accuracy": share(100, 100)}, clean={"accuracy": share(100, 100)})  # fmt: skip
    return store.put(
        result, {"standing": kept, "always": strict, "clean_correct": torch.ones(100, dtype=torch.bool)}
    )


def test_S5_several_answers_judge_a_target_that_answers_at_random(tmp_path):
    """It falls by what most answers say, holds only by what every answer says, and is open in between."""
    store, random = Store(tmp_path), [Flag(code="randomised")]
    outcomes = {
        numbers: verdict(store, [answered(store, *numbers)], random).outcome
        for numbers in ((20, 10), (90, 80), (90, 20))
    }
    assert outcomes == {(20, 10): "falls", (90, 80): "holds", (90, 20): "inconclusive"}
    assert (
        verdict(store, [answered(store, 90, 80)], [*random, Flag(code="more-steps-hurt")]).outcome != "holds"
    )


def test_S5_a_random_target_holds_against_nobody_who_did_not_average(tmp_path):
    store = Store(tmp_path)
    drawn = verdict(store, [answered(store, 90, 80, eot=1)], [Flag(code="randomised")])
    assert drawn.outcome == "inconclusive"
    assert "averaged" in drawn.why


def test_a_stand_in_recipe_is_a_doubt_about_what_trains_and_about_nothing_else(tmp_path):
    store = Store(tmp_path)
    checks = [Flag(code="surrogate-recipe"), Flag(code="zero-gradient")]
    attacked = verdict(store, [stored(store, "evasion.pgd", [True] * 100)], checks)
    case = Case(method="poisoning.label_flip", version=1, data="d", rate=0.1, rows=100, repeats=3)
    trained = Result(key=case.key, case=case, status="done", metrics={"accuracy_drop": share(1, 100)})
    threat = Threat(
        id="labels", title="Wrong labels", family="poisoning", attacks=(Ask(method=case.method),), rates=(0.1,),
        require=Requirement(metric="accuracy_drop", at_most=0.5),
    )  # fmt: skip
    poisoned = verdict(store, [store.put(trained)], checks, threat)
    assert [f.code for f in attacked.flags] == ["zero-gradient"]
    assert [f.code for f in poisoned.flags] == ["surrogate-recipe"]
    assert poisoned.outcome == "holds"


def test_an_attack_that_does_no_more_than_noise_shows_nothing(tmp_path):
    """74 of 100 stand where noise leaves 72 of the 81 that are right; with noise at 81 it does nothing, and 74 holds."""
    store = Store(tmp_path)
    stands, clean = [True] * 74 + [False] * 26, {"accuracy": share(81, 100)}
    weak = stored(store, "evasion.fgsm", stands, clean=clean, baseline={"robust_accuracy": share(72, 100)})
    drawn = verdict(store, [weak])
    assert drawn.outcome == "inconclusive"
    assert [f.code for f in drawn.flags] == ["baseline-beats-attack"]
    idle = stored(store, "evasion.pgd", stands, clean=clean, baseline={"robust_accuracy": share(81, 100)})
    assert verdict(store, [idle]).outcome == "holds"
