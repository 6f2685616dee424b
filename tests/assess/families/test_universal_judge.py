"""The judge of universal attacks: shares and baselines worked out by hand on a model of two values."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.families.universal import DRAWS, measure
from casemate.assess.store import Store
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.pasting import Pasting, Patch
from casemate.core.registry import find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp
from casemate.core.tick import ignore
from casemate.ops.rng import generator, rows

BALL = Lp(norm="linf", eps=0.2)


class Largest(nn.Module):
    """Class 0 unless one of two values exceeds 0.503; then class 1 or 2, of the larger one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.full((len(x), 1), 0.503).to(x), x], 1)


# the map adds (0.2, 0.05), which makes of these rows:
ROWS = (
    (0.4, 0.1, 0),  # class 1, its own second
    (0.1, 0.1, 0),  # nothing new
    (0.6, 0.1, 0),  # class 1, as it was before: never right
    (0.4, 0.7, 2),  # nothing new
    (0.4, 0.52, 2),  # class 1, its own second
    (0.9, 0.1, 1),  # nothing new
    (0.4, 0.48, 0),  # class 1, and class 2 second
    (0.3035, 0.1, 0),  # 0.5035 is class 1, and its nearest level below, 128 / 255 = 0.50196, is not
)


def push(x: Tensor) -> Tensor:
    return (x + torch.tensor([0.2, 0.05])).clamp(0, 1)


def judged(
    tmp_path, learnt, *, wanted=None, rows_=ROWS, net=None, budget=BALL, name="uap", train=None, seed=0
):
    """Let the judge measure an attack that has learnt `learnt` already."""
    test = rows_ if isinstance(rows_, Samples) else samples(rows_)
    target = Classifier(net or Largest(), test.classes, test.shape)
    nobody = lambda jobs, *, tick: pytest.fail("nothing may be trained")  # noqa: E731
    bench = Bench(
        target, Prepared(target), test, test if train is None else train, None, nobody, Store(tmp_path)
    )
    seen = []

    def run(oracle, x, goal, budget, /, *, rng, tick):
        seen.append((x, goal, oracle))
        return learnt

    entry = replace(find(f"universal.{name}"), run=run)
    params = {} if wanted is None else {"target": wanted}
    case = Case(method=entry.id, version=1, params=params, data="d", rows=len(test), budget=budget, seed=seed)
    return measure(entry, case, bench, ignore), seen


def samples(rows_) -> Samples:
    table = torch.tensor(rows_)
    return Samples(table[:, :2].clone(), table[:, 2].long(), 3)


def fractions(estimates) -> dict[str, tuple[float, int]]:
    return {name: (pytest.approx(e.value), e.n) for name, e in estimates.items()}


def test_the_shares_are_those_counted_by_hand(tmp_path):
    """Seven of eight rows are right before and three after; four of eight get another class."""
    found, _ = judged(tmp_path, push)
    assert fractions(found.clean) == {"accuracy": (7 / 8, 8)}
    assert fractions(found.metrics) == {
        "robust_accuracy": (3 / 8, 8),
        "success_rate": (4 / 7, 7),
        "fooling_rate": (4 / 8, 8),
        "robust_accuracy_8bit": (4 / 8, 8),
    }
    assert found.tensors["standing"].tolist() == [False, True, False, True, False, True, False, False]
    assert [flag.code for flag in found.flags if flag.code == "eight-bit-gap"]


def test_towards_a_class_only_rows_of_other_classes_count(tmp_path):
    """Six rows are right and not of class 1: four get it, and in three of these their own class is second."""
    found, _ = judged(tmp_path, push, wanted=1)
    assert fractions(found.metrics)["success_rate"] == (4 / 6, 6)
    assert fractions(found.metrics)["true_class_second_rate"] == (3 / 6, 6)
    assert fractions(found.metrics)["robust_accuracy"] == (3 / 8, 8)


@pytest.mark.parametrize(
    ("learnt", "code"),
    [
        (lambda x: (x + 0.3).clamp(0, 1) * (x < 0.65) + (x - 0.3) * (x >= 0.65), "budget-exceeded"),
        (lambda x: x + 1.0, "budget-exceeded"),
        (lambda x: x * float("nan"), "nan-output"),
    ],
    ids=["too far", "outside the box", "no numbers"],
)
def test_what_is_not_allowed_fools_nobody(tmp_path, learnt, code):
    found, _ = judged(tmp_path, learnt)
    assert found.metrics["robust_accuracy"].value == 7 / 8
    assert found.metrics["success_rate"].value == 0
    assert code in [flag.code for flag in found.flags]


@pytest.mark.parametrize("wanted", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_the_baseline_is_the_best_random_change_of_equal_size(tmp_path, wanted, seed):
    """In linf random changes are signs times eps: there are four, and which were drawn is drawn again here."""
    found, _ = judged(tmp_path, push, wanted=wanted, seed=seed)
    rng = generator(seed, "random universal change")
    drawn = {tuple(torch.randn(1, 2, generator=rng).sign()[0].tolist()) for _ in range(DRAWS)}
    data, rates = samples(ROWS), []
    for signs in drawn:
        own, got = (
            Largest()(x).argmax(1) for x in (data.x, (data.x + 0.2 * torch.tensor(signs)).clamp(0, 1))
        )
        right = own == data.y
        asked = right if wanted is None else right & (data.y != wanted)
        hit = (got != data.y) if wanted is None else got == wanted
        rates.append((int((hit & asked).sum()) / int(asked.sum()), -int((right & (got == data.y)).sum()) / 8))
    best = max(rates)
    assert found.baseline["success_rate"].value == pytest.approx(best[0])
    assert found.baseline["robust_accuracy"].value == pytest.approx(-best[1])


def test_an_attack_learns_from_rows_with_the_targets_answers_for_labels(tmp_path):
    """Of the third row the target says 1, so that towards class 1 there is nothing to learn from it or the sixth."""
    _, seen = judged(tmp_path, push, wanted=1)
    x, goal, oracle = seen[0]
    assert sorted(x[:, 0].tolist()) == pytest.approx(sorted([0.4, 0.1, 0.4, 0.4, 0.4, 0.3035]))
    assert (goal.t == 1).all()
    assert len(oracle.ledger.queries) == 6
    _, seen = judged(tmp_path, push)
    x, goal, _ = seen[0]
    assert torch.equal(goal.y, Largest()(x).argmax(1))
    assert len(x) == 8


class Mean(nn.Module):
    """Class 1 where a picture's mean exceeds 0.25."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.full_like(mean, 0.25), mean], 1)


def dark(n: int, level: float) -> Samples:
    """Pictures of one level, all of class 0."""
    return Samples(torch.full((n, 1, 8, 8), level), torch.zeros(n, dtype=torch.int64), 2)


@pytest.mark.parametrize(
    ("level", "fooled"), [(0.1, 1.0), (0.05, 0.0)], ids=["enough to mislead", "not enough"]
)
def test_a_patch_covers_the_budgets_share_wherever_the_harness_puts_it(tmp_path, level, fooled):
    """White on 13 of 64 pixels raises the mean from m to m + 13/64 (1 - m): 0.28 from 0.1, 0.24 from 0.05.

    The patch that was learnt claims all of the picture for itself, and the harness does not let it.
    """
    budget = Pasting(area=13 / 64, rotation=0, smallest=1)
    greedy = Patch(torch.ones(1, 8, 8), Pasting(area=1.0, rotation=0, smallest=1))
    found, _ = judged(
        tmp_path, greedy, rows_=dark(6, level), net=Mean(), budget=budget, name="patch", train=dark(20, level)
    )
    x_adv = found.tensors["x_adv"]
    assert ((x_adv == 1).flatten(1).sum(1) == 13).all()
    assert (x_adv - level).abs().lt(1e-6).flatten(1).sum(1).tolist() == [64 - 13] * 6
    mean = level + 13 / 64 * (1 - level)
    assert (mean > 0.25) == bool(fooled)
    assert found.metrics["success_rate"].value == fooled
    places = rows(0, torch.arange(6), "places of a patch").uniform(4)
    torch.testing.assert_close(x_adv, Patch(greedy.pattern, budget).paste(dark(6, level).x, places))
    # real pictures on the patch are as dark as the others, and change nothing
    assert found.metrics["success_rate_real_content"].value == 0


def test_the_best_of_real_pictures_is_the_control_of_a_patch(tmp_path):
    """One white picture among ten dark ones: shrunk to the patch it is a white patch, which fools all rows."""
    train = dark(10, 0.1)
    train.x[4] = 1.0
    found, _ = judged(
        tmp_path, Patch(torch.zeros(1, 4, 4), Pasting(area=0.25)), rows_=dark(5, 0.1), net=Mean(),
        budget=Pasting(area=0.25, rotation=0, smallest=1), name="patch", train=train,
    )  # fmt: skip
    assert found.metrics["success_rate"].value == 0
    assert found.metrics["success_rate_real_content"].value == 1


def test_a_ball_is_no_budget_for_a_patch_and_none_for_a_ball(tmp_path):
    with pytest.raises(NotApplicable, match="no such budget"):
        judged(tmp_path, push, name="patch")
    with pytest.raises(NotApplicable, match="no such budget"):
        judged(tmp_path, push, budget=Pasting(area=0.2))
