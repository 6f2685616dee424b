"""Poisons and backdoors that keep every promise, and the same with one defect each."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Generator, Tensor

from casemate.core import registry
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Entry
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from conformance import poisoning
from conformance.poisoning import Check
from conformance.toys import PAPER, entry_of


def relabel(clean: Samples, budget: PoisonBudget, /, *, rng: Generator, tick: Tick = ignore) -> Poison:
    """Give some rows the next class."""
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))]
    tick(1, 1, {})
    return Poison(rows, clean.x[rows].clone(), (clean.y[rows] + 1) % clean.classes)


def stamp(x: Tensor) -> Tensor:
    """Turn the last value of each row to the other edge."""
    marked = x.clone()
    last = marked.flatten(1)[:, -1]
    marked.flatten(1)[:, -1] = torch.where(last > 0.5, 0.0, 1.0)
    return marked


def stamped(
    clean: Samples,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Stamp rows of other classes and give them the target class.

    Args:
        target: class that stamped inputs shall get.
    """
    able = (clean.y != target).nonzero().flatten()
    rows = able[torch.randperm(len(able), generator=rng)[: budget.rows(len(clean))]]
    return Poison(rows, stamp(clean.x[rows]), torch.full((len(rows),), target), stamp, target)


def entry(run: Callable[..., Poison], backdoor: bool = False) -> Entry:
    decorator = registry.backdoor if backdoor else registry.poisoning
    return entry_of(decorator(papers=(PAPER,)), run)


CORRECT = (entry(relabel), entry(stamped, backdoor=True))
BROKEN: dict[Check, list[Entry]] = defaultdict(list)
Defect = Callable[[Samples, PoisonBudget, Generator, Tick], Poison]


def breaks(promise: Check, backdoor: bool = False) -> Callable[[Defect], Defect]:
    """Make a poison of a defect and say which promise it breaks."""

    def keep(defect: Defect) -> Defect:
        def run(clean: Samples, budget: PoisonBudget, /, *, rng: Generator, tick: Tick = ignore) -> Poison:
            """Poison with a defect."""
            return defect(clean, budget, rng, tick)

        run.__name__ = defect.__name__
        BROKEN[promise].append(entry(run, backdoor))
        return defect

    return keep


@breaks(poisoning.spends_its_budget_exactly)
def takes_a_row_more(clean, budget, rng, tick):
    return relabel(clean, PoisonBudget(min(1, budget.rate + 1 / len(clean))), rng=rng)


@breaks(poisoning.spends_its_budget_exactly)
def rounds_down(clean, budget, rng, tick):
    rows = torch.randperm(len(clean), generator=rng)[: int(budget.rate * len(clean))]
    return Poison(rows, clean.x[rows], (clean.y[rows] + 1) % clean.classes)


@breaks(poisoning.spends_its_budget_exactly)
def draws_rows_twice(clean, budget, rng, tick):
    rows = torch.randint(len(clean), (budget.rows(len(clean)),), generator=rng)
    return Poison(rows, clean.x[rows], (clean.y[rows] + 1) % clean.classes)


@breaks(poisoning.spends_its_budget_exactly)
def leaves_the_box(clean, budget, rng, tick):
    made = relabel(clean, budget, rng=rng)
    return replace(made, x=made.x + 0.1)


@breaks(poisoning.spends_its_budget_exactly)
def invents_a_class(clean, budget, rng, tick):
    made = relabel(clean, budget, rng=rng)
    return replace(made, y=made.y + 1)


@breaks(poisoning.changes_every_row_it_takes)
def draws_any_class(clean, budget, rng, tick):
    """A random class is the right one in one of K draws."""
    made = relabel(clean, budget, rng=rng)
    return replace(made, y=torch.randint(clean.classes, made.y.shape, generator=rng))


@breaks(poisoning.leaves_clean_data_alone)
def writes_into_clean_data(clean, budget, rng, tick):
    made = relabel(clean, budget, rng=rng)
    clean.y[made.rows] = made.y
    return made


@breaks(poisoning.leaves_clean_data_alone)
def shares_memory(clean, budget, rng, tick):
    count = budget.rows(len(clean))
    return Poison(torch.arange(count), clean.x[:count], (clean.y[:count] + 1) % clean.classes)


@breaks(poisoning.leaves_global_state_alone)
def draws_from_numpy(clean, budget, rng, tick):
    np.random.rand()  # noqa: NPY002
    return relabel(clean, budget, rng=rng)


@breaks(poisoning.follows_its_random_numbers)
def takes_the_first_rows(clean, budget, rng, tick):
    rows = torch.arange(budget.rows(len(clean)))
    return Poison(rows, clean.x[rows], (clean.y[rows] + 1) % clean.classes)


@breaks(poisoning.follows_its_random_numbers)
def draws_globally(clean, budget, rng, tick):
    rows = torch.randperm(len(clean))[: budget.rows(len(clean))]
    return Poison(rows, clean.x[rows], (clean.y[rows] + 1) % clean.classes)


@breaks(poisoning.does_nothing_at_rate_zero)
def takes_one_at_least(clean, budget, rng, tick):
    rows = torch.randperm(len(clean), generator=rng)[: max(1, budget.rows(len(clean)))]
    return Poison(rows, clean.x[rows], (clean.y[rows] + 1) % clean.classes)


@breaks(poisoning.takes_any_data)
def knows_ten_classes(clean, budget, rng, tick):
    made = relabel(clean, budget, rng=rng)
    return replace(made, y=(clean.y[made.rows] + 1) % 10)


@breaks(poisoning.takes_any_data)
def expects_pictures(clean, budget, rng, tick):
    _, _, _ = clean.shape
    return relabel(clean, budget, rng=rng)


@breaks(poisoning.takes_the_pictures_it_is_made_for)
def expects_one_channel(clean, budget, rng, tick):
    assert clean.shape[0] == 1
    return relabel(clean, budget, rng=rng)


@breaks(poisoning.takes_unbalanced_and_tiny_data)
def looks_at_the_first_row(clean, budget, rng, tick):
    assert clean.x[0].min() >= 0
    return relabel(clean, budget, rng=rng)


@breaks(poisoning.stops_when_a_tick_raises)
def swallows_exceptions(clean, budget, rng, tick):
    try:
        tick(1, 1, {})
    except Exception:
        return relabel(clean, budget, rng=rng)
    return relabel(clean, budget, rng=rng)


@breaks(poisoning.has_a_trigger_if_it_is_a_backdoor, backdoor=True)
def has_no_trigger(clean, budget, rng, tick):
    return relabel(clean, budget, rng=rng)


def with_trigger(trigger: Callable[[Tensor], Tensor], name: str, target: int = 0) -> None:
    def defect(clean: Samples, budget: PoisonBudget, rng: Generator, tick: Tick) -> Poison:
        return replace(stamped(clean, budget, rng=rng), trigger=trigger, target=target)

    defect.__name__ = name
    breaks(poisoning.has_a_trigger_if_it_is_a_backdoor, backdoor=True)(defect)


with_trigger(lambda x: x + 0.2, "marks_outside_the_box")
with_trigger(lambda x: x.mul_(0.9), "marks_in_place")
with_trigger(lambda x: x, "marks_nothing")
with_trigger(lambda x: (x + 0.1 * torch.rand_like(x)).clamp(0, 1), "marks_at_random")
with_trigger(lambda x: (x + x.mean(0)) / 2, "mixes_rows")
with_trigger(stamp, "targets_no_class", target=7)


@breaks(poisoning.takes_labels_that_are_noise)
def trusts_labels(clean, budget, rng, tick):
    in_turn = torch.equal(torch.arange(len(clean)) % clean.classes, clean.y)
    return relabel(clean, budget if in_turn else PoisonBudget(0.0), rng=rng)


def trains_surrogates_on(
    known: Workshop, budget: PoisonBudget, /, *, rng: Generator, tick: Tick = ignore
) -> Poison:
    """Poison, and leave the surrogates in training mode after a pass, which moves batch statistics."""
    for model in known.surrogates(2):
        model.net.train()(known.clean.x)
    return relabel(known.clean, budget, rng=rng)


BROKEN[poisoning.takes_models_of_other_builds].append(entry(trains_surrogates_on))
