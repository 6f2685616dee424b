import torch

from casemate.assess.families.poisoning import _broken_victims, over_pairs
from casemate.assess.presets import preset
from casemate.ops.differences import paired_shares


def test_victims_that_agree_on_few_rows_prove_no_small_drop():
    """Three victims lose nothing on 20 rows, of which clean and poisoned ones get different rows right:
    Student's interval has no length, Newcombe's for one victim reaches far above the 5 points allowed."""
    before = torch.tensor([True] * 10 + [False] * 10)
    after = torch.tensor([True] * 5 + [False] * 10 + [True] * 5)
    found = over_pairs([before] * 3, [after] * 3)
    alone = paired_shares(after.numpy(), before.numpy())
    assert (found.value, found.n) == (0, 3)
    assert abs(found.low - alone.low) + abs(found.high - alone.high) < 1e-12
    threat = next(t for t in preset("quick").threats if t.family == "poisoning")
    assert threat.require.judge(found) == "inconclusive"


def test_victims_that_differ_widen_the_interval_to_students():
    """Drops of 0, 10 and 20 points on 1000 rows: t(0.975, 2) * 10 / sqrt(3) = 24.8 points."""
    before = torch.ones(1000, dtype=torch.bool)
    after = [torch.arange(1000) >= lost for lost in (0, 100, 200)]
    found = over_pairs([before] * 3, after)
    assert abs(found.value - 0.1) < 1e-12
    assert abs(found.high - found.value - 4.3027 * 0.1 / 3**0.5) < 1e-4


def test_victims_that_lost_much_accuracy_are_doubted():
    """A model that gives one class to all inputs would show a trigger that works on every one of them."""
    assert [flag.code for flag in _broken_victims([0.1, 0.1], [0.9, 0.7])] == ["broken-victims"]
    assert _broken_victims([0.85, 0.7], [0.9, 0.8]) == ()
