from dataclasses import replace

import pytest

from casemate.assess.bench import Measured
from casemate.assess.prove import _against, meets
from casemate.assess.result import Spent
from casemate.core.registry import entries
from casemate.ops.stats import share
from casemate.scenes import find
from casemate.scenes.scene import Bar

HIGH = Bar("success_rate", at_least=0.5, gap=0.3)


@pytest.mark.parametrize(
    ("measured", "baseline", "holds"),
    [(90, 10, True), (90, 70, False), (45, 5, False), (52, 40, False)],
)
def test_a_bar_asks_for_the_value_and_for_a_clear_distance(measured, baseline, holds):
    assert meets(HIGH, share(measured, 100), share(baseline, 100)) == holds


def test_a_bar_that_is_not_to_be_passed_works_the_other_way_round():
    low = Bar("attack_success", at_most=0.1, gap=0.5)
    assert meets(low, share(2, 100), share(97, 100))
    assert not meets(low, share(20, 100), share(97, 100))


def test_only_the_baseline_itself_asks_for_no_distance():
    without = [e.id for e in entries() if find(e.id).bar.gap == 0]
    assert without == ["evasion.random_noise"]
    assert meets(Bar("success_rate", at_least=0.05), share(50, 100), share(50, 100))


def measured(success: int, accuracy: int) -> Measured:
    return Measured(
        headline="attack_success",
        metrics={"attack_success": share(success, 100), "accuracy": share(accuracy, 100)},
        baseline={"attack_success": share(0, 100)},
        clean={"accuracy": share(97, 100)},
        spent=Spent(),
    )


@pytest.mark.parametrize(
    ("without", "accuracy", "holds"),
    [(5, 95, True), (20, 95, False), (5, 90, False)],
    ids=["tenfold", "twofold", "too dear"],
)
def test_an_ablation_takes_the_place_of_the_baseline_and_a_price_counts(without, accuracy, holds):
    scene = replace(
        find("backdoor.clean_label"),
        bar=Bar("attack_success", at_least=0.5, gap=0.3, times=10),
        ablation={"variant": "plain"},
        price=0.04,
    )
    found = measured(60, accuracy)
    assert _against(scene, found, [])[3] == (accuracy == 95)
    clean, baseline, attack, met = _against(scene, found, [measured(without, 97)])
    assert (clean.value, baseline.value, attack.value) == (0.97, without / 100, 0.6)
    assert "variant plain" in baseline.name
    assert met == holds
