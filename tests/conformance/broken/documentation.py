"""Methods that say too little, or do what no method may, by the promise that must catch it."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Generator

from casemate.core import registry
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.registry import Entry, Paper
from conformance import documentation
from conformance.documentation import Check
from conformance.toys import PAPER, entry_of


def told(
    clean: Samples, budget: PoisonBudget, /, *, count: Annotated[int, Ge(1)] = 3, rng: Generator
) -> Poison:
    """Poison nothing, and say so in full.

    Args:
        count: number of things that are not done.
    """
    raise NotImplementedError


def _entry(run: Callable[..., Any], *papers: Paper) -> Entry:
    return entry_of(registry.poisoning(papers=papers or (PAPER,)), run)


CORRECT = _entry(told)
BROKEN: dict[Check, list[Entry]] = defaultdict(list)


def breaks(promise: Check, *papers: Paper) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def keep(run: Callable[..., Any]) -> Callable[..., Any]:
        BROKEN[promise].append(_entry(run, *papers))
        return run

    return keep


@breaks(documentation.has_a_first_line_that_stands_alone)
def without_a_full_stop(clean: Samples, budget: PoisonBudget, /, *, rng: Generator) -> Poison:
    """Poison nothing at all"""


@breaks(documentation.has_a_first_line_that_stands_alone)
def without_a_docstring(clean: Samples, budget: PoisonBudget, /, *, rng: Generator) -> Poison: ...


@breaks(documentation.describes_every_parameter)
def with_a_parameter_untold(
    clean: Samples, budget: PoisonBudget, /, *, count: Annotated[int, Ge(1)] = 3, rng: Generator
) -> Poison:
    """Poison nothing, and keep quiet."""


@breaks(documentation.bounds_every_number)
def with_any_number(clean: Samples, budget: PoisonBudget, /, *, count: int = 3, rng: Generator) -> Poison:
    """Poison nothing, any number of times.

    Args:
        count: number of things that are not done.
    """


@breaks(documentation.bounds_every_number)
def with_any_number_or_none(
    clean: Samples, budget: PoisonBudget, /, *, size: float | None = None, rng: Generator
) -> Poison:
    """Poison nothing, at any size.

    Args:
        size: size of what is not done, in units of x.
    """


@breaks(documentation.accepts_its_own_defaults)
def with_an_impossible_default(
    clean: Samples, budget: PoisonBudget, /, *, count: Annotated[int, Ge(1)], rng: Generator
) -> Poison:
    """Poison nothing, without a default.

    Args:
        count: number of things that are not done.
    """


@breaks(documentation.cites_a_paper, replace(PAPER, url="see the paper"))
def with_a_paper_nobody_finds(clean: Samples, budget: PoisonBudget, /, *, rng: Generator) -> Poison:
    """Poison nothing, as described elsewhere."""


@breaks(documentation.takes_inputs_by_position_and_settings_by_name)
def with_settings_by_position(clean: Samples, budget: PoisonBudget, count: int = 3) -> Poison:
    """Poison nothing, in any order."""


BROKEN[documentation.cites_a_paper].append(entry_of(registry.poisoning(papers=()), told))


@breaks(documentation.calls_nothing_forbidden)
def seeds(clean: Samples, budget: PoisonBudget, /, *, rng: Generator) -> Poison:
    """Poison nothing, after seeding the world."""
    torch.manual_seed(0)


@breaks(documentation.calls_nothing_forbidden)
def prints(clean: Samples, budget: PoisonBudget, /, *, rng: Generator) -> Poison:
    """Poison nothing, and tell everybody."""
    print("nothing")
