import pytest

from casemate.assess.prove import meets
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
