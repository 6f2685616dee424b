"""The judge of physical attacks on a target of one weight, through channels whose effect is known."""

import pytest
import torch

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families import physical as judge
from casemate.assess.store import Store
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.physical import PhysicalBudget, Print, Sticker
from casemate.core.registry import find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp
from casemate.core.tick import ignore
from casemate.ops.norms import size
from casemate.ops.rng import rows
from conftest import linear
from core.test_channel import NEUTRAL

# light of half the strength at most: what is bright becomes dark on every way
DIM = NEUTRAL.model_copy(update={"gain": (0.4, 0.5)})
ROWS = 16


def bench(tmp_path, x: torch.Tensor, y: torch.Tensor) -> Bench:
    """Class 1 is a picture (1, 8, 8) whose mean is above one half."""
    weight = torch.stack([torch.zeros(64), torch.full((64,), 1 / 64)])
    net = linear(weight, torch.tensor([0.0, -0.5])).net
    target = Classifier(net, 2, (1, 8, 8))
    return Bench(
        target, Prepared(target), Samples(x, y, 2), None, None, lambda jobs, tick: [], Store(tmp_path)
    )


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()


def measured(bench: Bench, budget: PhysicalBudget | Lp, method: str = "physical.printed", **params):
    entry = find(method)
    case = Case(
        method=entry.id, version=1, params=entry.validate(params), data="d", rows=len(bench.test), budget=budget
    )  # fmt: skip
    return judge.measure(entry, case, bench, ignore)


@pytest.fixture(autouse=True)
def few_ways(monkeypatch):
    monkeypatch.setattr(judge, "DRAWS", 20)


def test_success_is_counted_in_photographs_and_what_the_channel_undoes_is_told(tmp_path):
    """Dark pictures of 0.45 become bright by 0.1, as files: every one is fooled. In half the light all are
    dark again, and class 0 is right: nothing of the success is left, the destruction rate is 1.
    """
    x = flat(*[0.45] * ROWS)
    found = measured(bench(tmp_path, x, torch.zeros(ROWS, dtype=torch.int64)), Print(eps=0.1, channel=DIM))
    value = {name: m.value for name, m in found.metrics.items()}
    assert value == {
        "robust_accuracy": 1.0, "success_rate": 0.0, "digital_success_rate": 1.0, "destruction_rate": 1.0,
        "success_undone": 1.0,
    }  # fmt: skip
    assert found.metrics["success_rate"].high > 0.1  # sixteen rows are few
    assert found.tensors["standing"].all()


def test_what_survives_the_channel_is_told_as_well(tmp_path):
    """Through a channel that does nothing, photographs are the files."""
    x = flat(*[0.45] * ROWS)
    found = measured(
        bench(tmp_path, x, torch.zeros(ROWS, dtype=torch.int64)), Print(eps=0.1, channel=NEUTRAL)
    )
    assert found.metrics["success_rate"].value == 1.0
    assert found.metrics["robust_accuracy"].value == 0.0
    assert found.metrics["destruction_rate"].value == 0.0
    assert not found.tensors["standing"].any()


def test_what_the_channel_costs_without_an_attack_is_shown(tmp_path):
    """Half of the pictures are bright, and in half the light no picture is: accuracy 1 as files, 1/2 in photographs."""
    x, y = flat(*[0.2, 0.9] * (ROWS // 2)), torch.tensor([0, 1] * (ROWS // 2))
    found = measured(bench(tmp_path, x, y), Print(eps=0.01, channel=DIM))
    assert found.clean["accuracy"].value == 1.0
    assert found.clean["robust_accuracy"].value == 0.5
    assert found.baseline["robust_accuracy"].value == 0.5
    assert found.headline == "robust_accuracy"


def test_rows_that_are_wrong_as_files_are_not_attacked_but_count(tmp_path):
    """The rows that are wrong stay wrong in photographs: they count in the accuracy, not in the success."""
    x, y = flat(*[0.2] * ROWS), torch.tensor([0, 1] * (ROWS // 2))
    found = measured(bench(tmp_path, x, y), Print(eps=0.01, channel=NEUTRAL))
    assert found.metrics["robust_accuracy"].value == 0.5
    assert found.metrics["success_rate"].n == ROWS // 2
    assert found.tensors["clean_correct"].sum() == ROWS // 2


def test_a_candidate_outside_its_budget_counts_as_unchanged_and_is_flagged(tmp_path, monkeypatch):
    x = flat(*[0.45] * ROWS)
    there = bench(tmp_path, x, torch.zeros(ROWS, dtype=torch.int64))
    for wrong in (torch.ones_like(x), torch.full_like(x, float("nan")), x + 0.6):
        monkeypatch.setattr(judge, "_attacked", lambda *a, wrong=wrong: (wrong, judge.Ledger.empty(ROWS)))
        found = measured(there, Print(eps=0.1, channel=NEUTRAL))
        assert found.metrics["success_rate"].value == 0.0
        assert "budget-exceeded" in {f.code for f in found.flags}
    assert ("nan-output" in {f.code for f in found.flags}) is False


def test_a_wished_class_is_never_the_true_one_and_differs_between_rows():
    samples = Samples(torch.zeros(300, 1, 8, 8), torch.arange(300) % 5, 5)
    goal = judge._goal(Print(eps=0.1, wish="become"), samples, torch.arange(300), 0)
    assert (goal.t != samples.y).all()
    # each of the four other classes is drawn in about a quarter of the rows: 75 +- 4 deviations of 7.5
    counts = torch.bincount((goal.t - samples.y) % 5, minlength=5)[1:]
    assert counts.min() > 45


def test_the_random_change_spends_the_whole_budget():
    x = torch.full((20, 3, 10, 8), 0.5)
    noisy = judge.random_change(x, Print(eps=0.1), rows(0, 20))
    torch.testing.assert_close(size(noisy - x, "linf"), torch.full((20,), 0.1))
    assert ((noisy - x).abs() > 0.0999).all()
    stuck = judge.random_change(x, Sticker(area=0.1), rows(0, 20))
    changed = size(stuck - x, "l0")
    assert (changed <= 8).all()
    assert (changed >= 6).all()
    assert len({tuple((stuck - x)[i].abs().sum(0).nonzero()[0].tolist()) for i in range(20)}) > 5


def test_clean_noisy_and_changed_pictures_go_the_same_ways(tmp_path):
    """The ways depend on row number and seed: the same file photographed twice gives the same shares."""
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(6, dtype=torch.int64)
    there = bench(tmp_path, x, y)
    goal = judge._goal(Print(eps=0.1), there.test, torch.arange(6), 0)
    numbers = torch.tensor([3, 1, 4, 15, 9, 2])
    first = judge.photograph(there.target, x, y, goal, Print(eps=0.1), numbers=numbers, seed=0)
    order = torch.tensor([5, 0, 3])
    again = judge.photograph(
        there.target, x[order], y[order], goal[order], Print(eps=0.1), numbers=numbers[order], seed=0
    )
    assert torch.equal(first.right[order], again.right)


def test_other_budgets_are_not_applicable(tmp_path):
    there = bench(tmp_path, flat(0.4), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(NotApplicable, match="prints or stickers"):
        measured(there, Lp(norm="linf", eps=0.1))
    with pytest.raises(NotApplicable):
        measured(there, Print(eps=0.1), method="physical.rp2")
