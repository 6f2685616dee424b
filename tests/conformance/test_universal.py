"""Every registered universal attack keeps every promise."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.pasting import Pasting, Patch
from casemate.core.registry import Entry, entries
from casemate.core.target import GradientOracle, Prepared
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import Norm, rounding, size
from conformance import models
from conformance.bystanders import bits, generator, stop, untouched
from conformance.models import Setting

Map = Callable[[Tensor], Tensor]
COUNTS = ("steps", "images", "check", "batch", "hidden", "width", "passes")
ATTACKS = entries("universal")
EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.4, "l1": 1.2, "l0": 4}
each = pytest.mark.parametrize("entry", ATTACKS, ids=lambda e: e.id)


def budgets(entry: Entry, factor: float = 1.0) -> list[Lp | Pasting]:
    """One budget in each norm that a method knows, or a patch."""
    return [Lp(norm=n, eps=EPS[n] * factor) for n in entry.norms] or [Pasting(area=0.2)]


def wish(entry: Entry, setting: Setting) -> Goal:
    """Some goal that the method pursues."""
    field = entry.params.model_fields.get("target")
    if field is None or field.default is None:
        return Misclassify(setting.y)
    return Become(torch.full_like(setting.y, 1))


def learn(
    entry: Entry,
    setting: Setting,
    budget: Lp | Pasting,
    *,
    goal: Goal | None = None,
    rng: Generator | None = None,
    tick: Tick = ignore,
    prepared: Prepared | None = None,
) -> Map:
    """Run a method with every count reduced to 6."""
    fields = entry.params.model_fields.items()
    few: dict[str, Any] = {n: min(6, f.default) for n, f in fields if n in COUNTS}
    settings = entry.validate(few)
    settings.pop("target", None)
    oracle = GradientOracle(prepared or Prepared(setting.target), len(setting.x))
    goal = wish(entry, setting) if goal is None else goal
    learnt: Map = entry.run(
        oracle, setting.x, goal, budget, rng=rng or generator(), tick=tick, **settings
    )  # fmt: skip
    return learnt


def well_formed(x: Tensor, x_adv: Tensor, budget: Lp | Pasting) -> None:
    """Assert that candidates are in the budget, in the box, and in the form of the input."""
    assert (x_adv.shape, x_adv.dtype) == (x.shape, x.dtype)
    assert not x_adv.requires_grad
    assert bool(((x_adv >= 0) & (x_adv <= 1)).all()), "outside [0, 1]"
    if isinstance(budget, Lp):
        room = budget.eps * (1 + 1e-6) + rounding(x, budget.norm)
        assert bool((size((x_adv - x).double(), budget.norm) <= room).all())
    else:
        assert bool((size(x_adv - x, "l0") <= budget.pixels(*x.shape[2:])).all())


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_keeps_budget_and_box_on_inputs_never_seen(entry: Entry, dtype: torch.dtype) -> None:
    setting = models.conv(dtype=dtype)
    unseen = torch.rand(9, *models.IMAGE, generator=generator(7)).to(dtype).round(decimals=1)
    for factor in (0.25, 1, 3):
        for budget in budgets(entry, factor):
            well_formed(unseen, learn(entry, setting, budget)(unseen), budget)


@each
def test_a_rows_candidate_depends_on_no_other_row(entry: Entry) -> None:
    setting = models.conv()
    for budget in budgets(entry):
        learnt = learn(entry, setting, budget)
        together = learnt(setting.x)
        alone = torch.cat([learnt(row) for row in setting.x.split(1)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@each
def test_it_leaves_inputs_model_and_global_state_alone(entry: Entry) -> None:
    """Also when a tick raises, and when the map is used."""
    setting = models.in_training(torch.float64)
    prepared = Prepared(setting.target)
    before = bits(setting.x, setting.y), models.state(setting.target.net), models.state(prepared.net)
    with untouched():
        learn(entry, setting, budgets(entry)[0], prepared=prepared)(setting.x)
        with contextlib.suppress(Cancelled):
            learn(entry, setting, budgets(entry)[0], prepared=prepared, tick=stop)
    after = bits(setting.x, setting.y), models.state(setting.target.net), models.state(prepared.net)
    assert before == after


@each
def test_it_follows_its_random_numbers(entry: Entry) -> None:
    setting = models.conv()
    for budget in budgets(entry):
        first, again = (learn(entry, setting, budget, rng=generator(3))(setting.x) for _ in range(2))
        assert bits(first) == bits(again)


@each
def test_its_map_gives_the_same_answer_each_time(entry: Entry) -> None:
    setting = models.conv()
    learnt = learn(entry, setting, budgets(entry)[0])
    assert bits(learnt(setting.x)) == bits(learnt(setting.x))


@each
def test_zero_budget_changes_nothing(entry: Entry) -> None:
    setting = models.conv()
    for norm in entry.norms:
        learnt = learn(entry, setting, Lp(norm=norm, eps=0))
        assert torch.equal(learnt(setting.x), setting.x)


@each
def test_it_learns_from_no_rows_and_maps_no_rows(entry: Entry) -> None:
    setting = models.conv()
    for budget in budgets(entry):
        well_formed(setting.x, learn(entry, setting[:0], budget)(setting.x), budget)
        well_formed(setting.x[:0], learn(entry, setting, budget)(setting.x[:0]), budget)


@each
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_takes_any_number_of_classes(entry: Entry, classes: int) -> None:
    setting = models.linear(classes, dtype=torch.float32)
    for budget in budgets(entry):
        well_formed(setting.x, learn(entry, setting, budget)(setting.x), budget)


@each
def test_it_takes_tables_or_refuses_them(entry: Entry) -> None:
    setting = models.mlp()
    for budget in budgets(entry):
        with contextlib.suppress(NotApplicable):
            well_formed(setting.x, learn(entry, setting, budget)(setting.x), budget)


@each
def test_it_refuses_the_goals_it_does_not_know(entry: Entry) -> None:
    """One without a parameter `target` knows no class, one whose target is never None needs one."""
    setting = models.conv()
    field = entry.params.model_fields.get("target")
    refused: Goal | None = None
    if field is None:
        refused = Become(torch.full_like(setting.y, 1))
    elif field.default is not None:
        refused = Misclassify(setting.y)
    for goal in (Misclassify(setting.y), Become(torch.full_like(setting.y, 1))):
        if refused is not None and type(goal) is type(refused):
            with pytest.raises(NotApplicable):
                learn(entry, setting, budgets(entry)[0], goal=goal)
        else:
            learn(entry, setting, budgets(entry)[0], goal=goal)


@each
def test_a_constant_model_is_no_crash(entry: Entry) -> None:
    for label in (0, 1):
        setting = models.constant(label)
        for budget in budgets(entry):
            well_formed(setting.x, learn(entry, setting, budget)(setting.x), budget)


@each
def test_its_steps_are_told_and_may_be_stopped(entry: Entry) -> None:
    setting = models.conv()
    told: list[tuple[int, int]] = []
    learn(entry, setting, budgets(entry)[0], tick=lambda step, total, values: told.append((step, total)))
    assert told
    assert told == sorted(told)
    assert all(step <= total for step, total in told)
    with pytest.raises(Cancelled, match="enough"):
        learn(entry, setting, budgets(entry)[0], tick=stop)


@each
def test_a_patch_budget_gives_a_patch(entry: Entry) -> None:
    learnt = learn(entry, models.conv(), budgets(entry)[0])
    assert isinstance(learnt, Patch) == (not entry.norms)
