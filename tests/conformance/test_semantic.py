"""Every registered semantic attack keeps every promise, in the spaces that its budgets open."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.builtin import shapes
from casemate.core.errors import Cancelled, NotApplicable
from casemate.core.registry import Entry, entries
from casemate.core.semantic import Attributes, Colours, Conditional, Latent, SemanticBudget
from casemate.core.spaces import Space, space_of
from casemate.core.target import Classifier, LabelOracle, Ledger, Prepared
from casemate.core.threat import Goal, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import rows as row_streams
from conformance import models
from conformance.bystanders import bits, generator, stop, untouched
from conformance.models import Setting

METHODS = entries("semantic")
QUICK = {"steps": 4, "trials": 4, "samples": 5, "step": 0.5}
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
FEW = 3  # queries of a budget that has a limit
BUDGETS: tuple[SemanticBudget, ...] = (
    Latent(generator="generator_fashion_vae", radius=1.0),
    Conditional(generator="generator_fashion_conditional_gan"),
    Conditional(generator="generator_fashion_conditional_gan", noise=0.1),
    Attributes(names=("angle", "colour"), limits=(0.3, 0.1), drawn=8),
    Colours(),
    Colours(hue=0.1, saturation=0.2),
)
NOTHING: tuple[SemanticBudget, ...] = (
    Latent(generator="generator_fashion_vae", radius=0.0),
    Attributes(names=("angle", "colour"), limits=(0.0, 0.0), drawn=8),
    Colours(hue=0.0, saturation=0.0),
)
each = pytest.mark.parametrize("entry", METHODS, ids=lambda e: e.id)


def setting_for(
    budget: SemanticBudget, dtype: torch.dtype = torch.float32, classes: int = 3, n: int = 4
) -> Setting:
    """A normalised, linear target of what the budget's space holds; its rows are labelled by itself."""
    grey = isinstance(budget, Latent | Conditional)
    shape = GREY if grey else COLOUR
    x = torch.rand(n, *shape, generator=generator(1)) if grey else shapes.shapes(8, 0).x[:n]
    with models.seeded(4):
        net = nn.Sequential(
            nn.BatchNorm2d(shape[0]), nn.Dropout(0.2), nn.Flatten(), nn.Linear(x[0].numel(), classes)
        )
    target = Classifier(net.eval().to(dtype), classes, shape)
    return Setting(target, x.to(dtype), target.predict(x.to(dtype)).argmax(1))


@dataclass(frozen=True)
class Attacked:
    """The codes that a run returned, their space, and what was spent."""

    codes: Tensor
    space: Space
    ledger: Ledger

    @property
    def made(self) -> Tensor:
        """What the harness makes of the codes."""
        return self.space.decode(self.space.clip(self.codes)).detach()


def attack(
    entry: Entry,
    setting: Setting,
    budget: SemanticBudget,
    *,
    rows: list[int] | None = None,
    seed: int = 0,
    tick: Tick = ignore,
    prepared: Prepared | None = None,
    goal: Goal | None = None,
) -> Attacked:
    """Run a method with few steps; `rows` names the random streams of the rows."""
    ledger = Ledger.empty(len(setting.x), budget.queries)
    oracle: LabelOracle = entry.access(prepared or Prepared(setting.target), ledger)
    settings: dict[str, Any] = entry.validate(
        {k: v for k, v in QUICK.items() if k in entry.params.model_fields}
    )
    goal = Misclassify(setting.y) if goal is None else goal
    streams = row_streams(seed, len(setting.x) if rows is None else rows)
    codes = entry.run(oracle, setting.x, goal, budget, rng=streams, tick=tick, **settings)
    return Attacked(codes, space_of(budget, setting.x, goal), ledger)


@cache
def taken(entry: Entry, among: tuple[SemanticBudget, ...] = BUDGETS) -> list[SemanticBudget]:
    """The budgets that the method takes; it must say of the others that they do not fit."""
    found = []
    for budget in among:
        with contextlib.suppress(NotApplicable):
            attack(entry, setting_for(budget, n=1), budget)
            found.append(budget)
    assert found, f"{entry.id} takes no budget"
    return found


def well_formed(found: Attacked, x: Tensor) -> None:
    """Assert that codes have the form of the space's, and stand for inputs in the box and in the form of x."""
    assert (found.codes.shape, found.codes.dtype) == (found.space.start.shape, x.dtype)
    assert not found.codes.requires_grad
    assert found.codes.isfinite().all()
    made = found.made
    assert (made.shape, made.dtype) == (x.shape, x.dtype)
    assert bool(((made >= 0) & (made <= 1)).all()), "outside [0, 1]"


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_its_codes_are_allowed_and_stand_for_inputs_in_the_box(entry: Entry, dtype: torch.dtype) -> None:
    for budget in taken(entry):
        setting = setting_for(budget, dtype)
        found = attack(entry, setting, budget)
        well_formed(found, setting.x)
        torch.testing.assert_close(found.space.clip(found.codes), found.codes, atol=1e-5, rtol=1e-5)


@each
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_takes_any_number_of_classes(entry: Entry, classes: int) -> None:
    for budget in taken(entry):
        setting = setting_for(budget, classes=classes)
        well_formed(attack(entry, setting, budget), setting.x)


@each
def test_it_leaves_inputs_model_and_global_state_alone(entry: Entry) -> None:
    """A model in training, partly frozen and with a gradient; also when a tick raises."""
    for budget in taken(entry):
        setting = setting_for(budget)
        net = setting.target.net
        assert isinstance(net, nn.Sequential)
        net.train()
        net[0].eval()
        net[0].weight.requires_grad_(False)
        net[3].weight.grad = torch.ones_like(net[3].weight)
        prepared = Prepared(setting.target)
        before = bits(setting.x, setting.y), models.state(net), models.state(prepared.net)
        with untouched():
            found = attack(entry, setting, budget, prepared=prepared)
            with contextlib.suppress(Cancelled):
                attack(entry, setting, budget, prepared=prepared, tick=stop)
        found.codes.zero_()
        assert (bits(setting.x, setting.y), models.state(net), models.state(prepared.net)) == before


@each
def test_it_follows_its_random_numbers(entry: Entry) -> None:
    for budget in taken(entry):
        setting = setting_for(budget)
        first, again = (attack(entry, setting, budget, seed=3).codes for _ in range(2))
        assert bits(first) == bits(again)


@each
def test_a_rows_codes_depend_on_no_other_row(entry: Entry) -> None:
    """The same rows in another order, with the same streams, end alike; the last bits may differ."""
    for budget in taken(entry):
        setting = setting_for(budget, torch.float64)
        order = [3, 1]
        some = attack(entry, setting[torch.tensor(order)], budget, rows=order)
        whole = attack(entry, setting, budget)
        torch.testing.assert_close(some.codes, whole.codes[order], rtol=1e-3, atol=1e-3)


@each
def test_it_takes_no_rows_at_all(entry: Entry) -> None:
    for budget in taken(entry):
        setting = setting_for(budget)
        found = attack(entry, setting[:0], budget)
        assert found.codes.shape[0] == 0
        assert found.made.shape == (0, *setting.target.shape)


# what is made for a class has no original to keep
@pytest.mark.parametrize("entry", [e for e in METHODS if e.name != "unrestricted"], ids=lambda e: e.id)
def test_zero_budget_changes_nothing(entry: Entry) -> None:
    """A radius, limits or shifts of zero."""
    for budget in taken(entry, NOTHING):
        found = attack(entry, setting_for(budget), budget)
        assert torch.equal(found.made, found.space.decode(found.space.start).detach())


@each
def test_it_keeps_the_number_of_queries(entry: Entry) -> None:
    """The ledger refuses more, so that a method that asks on fails here."""
    for budget in taken(entry):
        limited = budget.model_copy(update={"queries": FEW})
        found = attack(entry, setting_for(limited), limited)
        assert int(found.ledger.queries.max()) <= FEW


@each
def test_a_constant_model_is_no_crash(entry: Entry) -> None:
    for budget in taken(entry):
        for label in (0, 1):
            setting = setting_for(budget)
            with torch.no_grad():
                setting.target.net[3].weight.zero_()
                setting.target.net[3].bias.copy_(torch.eye(3)[label])
            well_formed(attack(entry, setting, budget), setting.x)


def noted(told: list[tuple[int, int]], step: int, total: int, values: Mapping[str, float], /) -> None:
    """Keep what a tick says of the steps."""
    told.append((step, total))


@each
def test_its_steps_are_told_and_may_be_stopped(entry: Entry) -> None:
    for budget in taken(entry):
        told: list[tuple[int, int]] = []
        attack(entry, setting_for(budget), budget, tick=partial(noted, told))
        assert told
        assert told == sorted(told)
        assert all(step <= total for step, total in told)
        with pytest.raises(Cancelled, match="enough"):
            attack(entry, setting_for(budget), budget, tick=stop)


@each
def test_it_refuses_the_budgets_of_others(entry: Entry) -> None:
    kinds = {type(budget) for budget in taken(entry)}
    assert kinds < {type(budget) for budget in BUDGETS}


@each
def test_it_refuses_inputs_that_its_space_does_not_hold(entry: Entry) -> None:
    """Tables of seven values: no generator makes them, no renderer draws them, and they have no colours."""
    for budget in taken(entry):
        setting = models.mlp(dtype=torch.float32)
        with pytest.raises(NotApplicable):
            attack(entry, setting, budget)
