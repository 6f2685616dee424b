"""What poisoning attacks and backdoors must keep, one function per promise."""

import contextlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casemate.builtin.nets import small_cnn, small_mlp
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import Cancelled, CasemateError, NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from conformance.bystanders import bits, generator, stop, untouched

Check = Callable[[Entry], None]
CHECKS: list[Check] = []
RATES = (0.0, 0.02, 0.1, 0.33)
SHAPES = ((1, 8, 8), (3, 9, 7), (7,), (2, 16, 5))
RANKS_ROWS = {"backdoor.sleeper_agent"}  # takes the rows of the largest gradients, whatever the numbers


def check(function: Check) -> Check:
    """Add a promise to the battery."""
    CHECKS.append(function)
    return function


def samples(n: int = 90, shape: tuple[int, ...] = (1, 8, 8), classes: int = 3, seed: int = 0) -> Samples:
    """Random inputs with every class in turn; some values are exactly 0 or 1."""
    x = (1.4 * torch.rand(n, *shape, generator=generator(seed)) - 0.2).clamp(0, 1)
    return Samples(x, torch.arange(n) % classes, classes)


def few_steps(entry: Entry) -> dict[str, int]:
    """Settings that keep each loop of a method short."""
    fields = entry.params.model_fields.items()
    loops = {name: field.default for name, field in fields if "steps" in name or name == "rounds"}
    return {name: 3 if "steps" in name else 1 for name, most in loops.items() if isinstance(most, int)}


@cache
def _surrogate(shape: tuple[int, ...], classes: int, seed: int) -> Classifier:
    make = small_cnn if len(shape) == 3 else small_mlp
    recipe = Recipe(partial(make, shape, classes), "tiny", epochs=1, batch=32)
    return recipe(samples(90, shape, classes), rng=generator(seed))


def workshop(clean: Samples) -> Workshop:
    """Lend the data with small surrogates that were trained on similar ones."""
    make = small_cnn if len(clean.shape) == 3 else small_mlp
    recipe = Recipe(partial(make, clean.shape, clean.classes), "tiny", epochs=1, batch=32)
    return Workshop(clean, recipe, lambda n: [_surrogate(clean.shape, clean.classes, i) for i in range(n)])


def poison(
    entry: Entry, clean: Samples, rate: float = 0.1, seed: int = 0, tick: Tick = ignore, **params: Any
) -> Poison:
    """Run a poisoning attack or backdoor, with few steps and what it asks to know."""
    known = clean if entry.access is Samples else workshop(clean)
    settings = {**few_steps(entry), **params}
    done = entry.run(known, PoisonBudget(rate), rng=generator(seed), tick=tick, **entry.validate(settings))
    assert isinstance(done, Poison)
    return done


def well_formed(made: Poison, clean: Samples, rate: float) -> None:
    """Assert that a poison fits its data and its budget."""
    rows = made.rows.tolist()
    assert made.rows.dtype == torch.int64
    assert len(set(rows)) == len(rows), "a row is poisoned twice"
    assert all(0 <= row < len(clean) for row in rows)
    assert len(rows) <= PoisonBudget(rate).rows(len(clean)), "more rows than the budget allows"
    assert made.x.shape == (len(rows), *clean.shape)
    assert made.x.dtype == clean.x.dtype
    assert in_box(made.x)
    assert made.y.shape == (len(rows),)
    assert made.y.dtype == torch.int64
    assert all(0 <= label < clean.classes for label in made.y.tolist())
    assert not made.x.requires_grad


def in_box(x: Tensor) -> bool:
    """Tell whether all values are in [0, 1]; what is no number is not."""
    return bool(((x >= 0) & (x <= 1)).all())


@check
def spends_its_budget_exactly(entry: Entry) -> None:
    """As many distinct rows as the rate says, where enough rows can serve, and never more."""
    for n in (90, 91):
        for rate in RATES:
            clean = samples(n)
            made = poison(entry, clean, rate)
            well_formed(made, clean, rate)
            assert len(made.rows) == round(rate * n), f"rate {rate} of {n} rows"
    well_formed(poison(entry, samples(), 1.0), samples(), 1.0)


@check
def changes_every_row_it_takes(entry: Entry) -> None:
    """A row that stays as it was is a wasted budget, and makes the poison look harmless."""
    clean = samples()
    made = poison(entry, clean, 0.2)
    same = (made.x == clean.x[made.rows]).flatten(1).all(1) & (made.y == clean.y[made.rows])
    assert not same.any()


@check
def leaves_clean_data_alone(entry: Entry) -> None:
    clean = samples()
    before = bits(clean.x, clean.y)
    made = poison(entry, clean, 0.2)
    assert bits(clean.x, clean.y) == before
    made.x.zero_()
    made.y.zero_()
    assert bits(clean.x, clean.y) == before, "the poison shares memory with the clean data"


@check
def leaves_global_state_alone(entry: Entry) -> None:
    with untouched():
        made = poison(entry, samples())
        if made.trigger is not None:
            made.trigger(samples().x)


@check
def follows_its_random_numbers(entry: Entry) -> None:
    """The same stream gives the same poison; another one gives other rows, or other changes to the best ones."""
    clean = samples()
    first, again, other = (poison(entry, clean, 0.2, seed) for seed in (0, 0, 1))
    assert bits(first.rows, first.x, first.y) == bits(again.rows, again.x, again.y)
    if entry.id in RANKS_ROWS:
        assert bits(first.x[first.rows.argsort()]) != bits(other.x[other.rows.argsort()])
    else:
        assert sorted(first.rows.tolist()) != sorted(other.rows.tolist())


@check
def does_nothing_at_rate_zero(entry: Entry) -> None:
    clean = samples()
    made = poison(entry, clean, 0.0)
    assert len(made.rows) == 0
    applied = made.apply(clean)
    assert bits(applied.x, applied.y) == bits(clean.x, clean.y)


@check
def takes_any_data(entry: Entry) -> None:
    """Any shape and number of classes: poisoned within the rules, or refused with NotApplicable."""
    for shape in SHAPES:
        for classes in (2, 3, 10):
            clean = samples(60, shape, classes)
            try:
                made = poison(entry, clean)
            except NotApplicable:
                continue
            well_formed(made, clean, 0.1)
            if made.trigger is not None:
                assert made.trigger(clean.x).shape == clean.x.shape
                assert in_box(made.trigger(clean.x))


@check
def takes_the_pictures_it_is_made_for(entry: Entry) -> None:
    """Grey and colour pictures of common sizes are never refused."""
    for shape in ((1, 28, 28), (3, 32, 32)):
        clean = samples(40, shape)
        well_formed(poison(entry, clean), clean, 0.1)


@check
def takes_unbalanced_and_tiny_data(entry: Entry) -> None:
    """A class without rows, one row, no rows at all: no worse than a named error."""
    few = samples(6)
    lopsided = Samples(few.x, torch.zeros(6, dtype=torch.int64), 3)
    for clean in (lopsided, samples(1), samples(0)):
        with contextlib.suppress(CasemateError):
            well_formed(poison(entry, clean, 0.5), clean, 0.5)


def _with_batch_norm(shape: tuple[int, ...], classes: int) -> nn.Module:
    layers = [nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * shape[1] * shape[2], classes))


def _without_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], classes, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@check
def takes_models_of_other_builds(entry: Entry) -> None:
    """Nets with batch normalisation, and those that are no features with a head: done, or refused by name."""
    clean = samples()
    for make in (_with_batch_norm, _without_head):
        recipe = Recipe(partial(make, clean.shape, clean.classes), make.__name__, epochs=1, batch=32)
        own = [recipe(clean, rng=generator(i)) for i in range(2)]
        before = bits(*(v for model in own for v in model.net.state_dict().values()))
        known = (
            clean if entry.access is Samples else Workshop(clean, recipe, lambda n, own=own: (own * n)[:n])
        )
        with contextlib.suppress(NotApplicable):
            settings = entry.validate(few_steps(entry))
            made = entry.run(known, PoisonBudget(0.1), rng=generator(0), **settings)
            well_formed(made, clean, 0.1)
        assert bits(*(v for model in own for v in model.net.state_dict().values())) == before


@check
def takes_labels_that_are_noise(entry: Entry) -> None:
    """Labels that have nothing to do with the inputs, as after somebody else's poisoning."""
    clean = samples()
    noisy = Samples(clean.x, clean.y[torch.randperm(len(clean), generator=generator(5))], clean.classes)
    made = poison(entry, noisy, 0.2)
    well_formed(made, noisy, 0.2)
    assert len(made.rows) == 18


@check
def stops_when_a_tick_raises(entry: Entry) -> None:
    """Work that reports its steps lets the caller end it; work of one step need not report."""
    ticks: list[int] = []
    poison(entry, samples(), tick=lambda step, total, values: ticks.append(step))
    if ticks:
        with pytest.raises(Cancelled, match="enough"):
            poison(entry, samples(), tick=stop)


@check
def has_a_trigger_if_it_is_a_backdoor(entry: Entry) -> None:
    """A backdoor names a target class and marks inputs within the box, row by row."""
    clean = samples()
    made = poison(entry, clean)
    if entry.family != "backdoor":
        assert made.trigger is None
        assert made.target is None
        return
    assert made.trigger is not None
    assert made.target is not None
    assert 0 <= made.target < clean.classes
    for x in (clean.x, torch.zeros_like(clean.x), torch.ones_like(clean.x)):
        before = bits(x)
        marked = made.trigger(x)
        assert bits(x) == before, "the trigger writes into its input"
        assert (marked.shape, marked.dtype) == (x.shape, x.dtype)
        assert in_box(marked)
        assert bits(made.trigger(x)) == bits(marked), "the trigger changes from call to call"
        assert bits(made.trigger(x[3:4])) == bits(marked[3:4]), "a row's mark depends on its neighbours"
    assert len(made.trigger(clean.x[:0])) == 0
    assert not torch.equal(made.trigger(clean.x), clean.x), "the trigger marks nothing"
