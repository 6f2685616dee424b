"""Every registered physical attack keeps every promise, with the budget that it takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from casemate.core.channel import Channel
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.physical import PhysicalBudget, Print, Sticker
from casemate.core.registry import Entry, entries
from casemate.core.target import Ledger, Prepared
from casemate.core.threat import Become, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import rows as row_streams
from conformance.bystanders import bits, stop, untouched
from conformance.models import Setting, linear

METHODS = entries("physical")
QUICK = {"steps": 3, "mask_steps": 2, "draws": 2}
BUDGETS: tuple[PhysicalBudget, ...] = (
    Print(eps=0.1), Print(norm="l2", eps=0.5), Sticker(area=0.25), Sticker(area=1.0), Print(eps=1.0),
)  # fmt: skip
SHAPES = ((1, 8, 8), (3, 9, 7), (1, 5, 16))


def attack(
    entry: Entry,
    setting: Setting,
    budget: PhysicalBudget,
    *,
    rows: list[int] | None = None,
    goal: Any = None,
    seed: int = 0,
    tick: Tick = ignore,
    prepared: Prepared | None = None,
) -> Tensor:
    """Run a method; `rows` names the random streams of the rows."""
    oracle = entry.access(prepared or Prepared(setting.target), Ledger.empty(len(setting.x)))
    settings = entry.validate({k: v for k, v in QUICK.items() if k in entry.params.model_fields})
    goal = Misclassify(setting.y) if goal is None else goal
    streams = row_streams(seed, len(setting.x) if rows is None else rows)
    found: Tensor = entry.run(oracle, setting.x, goal, budget, rng=streams, tick=tick, **settings)
    return found


def budget_of(entry: Entry) -> PhysicalBudget:
    """A budget that the method takes."""
    for budget in BUDGETS:
        try:
            attack(entry, linear(shape=(1, 8, 8), n=1), budget)
        except NotApplicable:
            continue
        return budget
    raise AssertionError(f"{entry.id} takes no budget")


def keeps(x_adv: Tensor, x: Tensor, budget: PhysicalBudget) -> bool:
    """Tell whether a result is in the form of the input, in the box and in the budget."""
    assert (x_adv.shape, x_adv.dtype) == (x.shape, x.dtype)
    assert x_adv.isfinite().all()
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    delta = (x_adv - x).double().flatten(1)
    match budget:
        case Print(norm="linf"):
            return bool((delta.abs() <= budget.eps + 1e-6).all())
        case Print():
            return bool((delta.square().sum(1).sqrt() <= budget.eps + 1e-5).all())
        case Sticker():
            changed = (x_adv != x).any(1).flatten(1).sum(1)
            return bool((changed <= budget.area * x.shape[2] * x.shape[3]).all())


Check = Callable[[Entry], None]


def keeps_its_budget_whatever_the_pictures(entry: Entry) -> None:
    """Grey and colour, square and not, in both precisions; with 2, 3 and 5 classes; dark and bright."""
    for shape in SHAPES:
        for classes in (2, 3, 5):
            for dtype in (torch.float32, torch.float64):
                setting = linear(classes, shape, n=4, dtype=dtype)
                setting.x[0], setting.x[1] = 0, 1
                for budget in BUDGETS:
                    try:
                        found = attack(entry, setting, budget)
                    except NotApplicable:
                        continue
                    assert keeps(found, setting.x, budget)


def works_towards_a_class(entry: Entry) -> None:
    setting = linear(5, (1, 8, 8))
    goal = Become((setting.y + 1) % 5)
    assert keeps(attack(entry, setting, budget_of(entry), goal=goal), setting.x, budget_of(entry))


def changes_nothing_without_a_budget(entry: Entry) -> None:
    """A radius of zero, or stickers smaller than a pixel."""
    setting = linear(3, (1, 8, 8))
    nothing = Print(eps=0) if isinstance(budget_of(entry), Print) else Sticker(area=0.01)
    assert torch.equal(attack(entry, setting, nothing), setting.x)


def leaves_input_model_and_generators_alone(entry: Entry) -> None:
    setting = linear(3, (3, 8, 8))
    before = bits(setting.x, setting.y, *setting.target.net.state_dict().values())
    with untouched():
        found = attack(entry, setting, budget_of(entry))
    found.zero_()
    assert bits(setting.x, setting.y, *setting.target.net.state_dict().values()) == before
    assert all(p.grad is None for p in setting.target.net.parameters())


def follows_its_random_numbers(entry: Entry) -> None:
    setting, budget = linear(3, (1, 8, 8)), budget_of(entry)
    assert torch.equal(attack(entry, setting, budget), attack(entry, setting, budget))


def treats_each_row_by_itself(entry: Entry) -> None:
    """The same rows in another order, or one of them alone, with the same streams, end alike."""
    setting, budget = linear(3, (1, 8, 8)), budget_of(entry)
    whole = attack(entry, setting, budget)
    order = [5, 2, 7]
    some = attack(entry, setting[torch.tensor(order)], budget, rows=order)
    # Adam divides by the size of a gradient, so that the last bits of tiny ones show
    torch.testing.assert_close(some, whole[order], rtol=0, atol=1e-5)


def takes_no_rows_at_all(entry: Entry) -> None:
    setting = linear(3, (1, 8, 8))[slice(0, 0)]
    assert attack(entry, setting, budget_of(entry)).shape == (0, 1, 8, 8)


def stops_when_a_tick_raises(entry: Entry) -> None:
    with pytest.raises(Cancelled, match="enough"):
        attack(entry, linear(3, (1, 8, 8)), budget_of(entry), tick=stop)


def counts_its_passes(entry: Entry) -> None:
    """Oracles know of every pass, and every row costs the same."""
    setting = linear(3, (1, 8, 8))
    ledger = Ledger.empty(len(setting.x))
    settings = entry.validate({k: v for k, v in QUICK.items() if k in entry.params.model_fields})
    oracle = entry.access(Prepared(setting.target), ledger)
    entry.run(oracle, setting.x, Misclassify(setting.y), budget_of(entry), rng=row_streams(0, 8), **settings)
    assert ledger.gradients.min() > 0
    assert len(ledger.queries.unique()) == 1


def refuses_what_cannot_be_printed(entry: Entry) -> None:
    """Tables have no channel; a method without one may change them, but never crash."""
    setting = linear(3, (7,))
    try:
        found = attack(entry, setting, budget_of(entry))
    except NotApplicable:
        return
    assert found.shape == setting.x.shape


CHECKS: tuple[Check, ...] = (
    keeps_its_budget_whatever_the_pictures, works_towards_a_class, changes_nothing_without_a_budget,
    leaves_input_model_and_generators_alone, follows_its_random_numbers, treats_each_row_by_itself,
    takes_no_rows_at_all, stops_when_a_tick_raises, counts_its_passes, refuses_what_cannot_be_printed,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)
def test_physical(entry: Entry, check: Check) -> None:
    check(entry)


def test_channels_of_a_budget_are_the_defaults_unless_said() -> None:
    assert Print(eps=0.1).channel == Channel() == Sticker(area=0.1).channel
