"""casemate's poisons and screenings behind the same signature as the peers'."""

from collections.abc import Callable
from typing import Any

import torch
from poison_turns import Run, Task
from torch import Tensor

from casemate.core.data import Poison, PoisonBudget
from casemate.core.registry import find
from casemate.core.tampering import Tampering
from casemate.core.workshop import Workshop
from casemate.ops.rng import generator


def targeted(method: str, **params: Any) -> Run:
    """Craft a poison for each aim, all in one call."""

    def run(task: Task) -> list[Poison]:
        entry = find(f"targeted.{method}")
        budget = Tampering(poisons=task.count, eps=task.eps)
        given = entry.validate({"steps": task.steps, **params})
        return list(entry.run(_workshop(task), task.wanted, budget, rng=_rng(task), **given))

    return run


def backdoor(method: str, **params: Any) -> Run:
    """Poison the rows of class 1."""

    def run(task: Task) -> list[Poison]:
        entry = find(f"backdoor.{method}")
        budget = PoisonBudget(task.count / len(task.clean))
        given = entry.validate({"steps": task.steps, "eps": task.eps, "target": 1, **params})
        return [entry.run(_workshop(task), budget, rng=_rng(task), **given)]

    return run


def screening(method: str, **params: Any) -> Run:
    """Find the rows to keep."""

    def run(task: Task) -> Tensor:
        entry = find(f"screening.{method}")
        kept: Tensor = entry.run(task.model, task.clean, rng=_rng(task), **entry.validate(params))
        return kept

    return run


def noise(task: Task) -> list[Poison]:
    """Change as many rows, drawn from the wished class, by noise of full size."""
    wishes = [1] if task.aims is None else task.aims.wish.tolist()
    return [_noise(task, wish, generator(task.seed, "noise", i)) for i, wish in enumerate(wishes)]


def marks(task: Task) -> list[Poison]:
    """Put the mark on as many rows, drawn from class 1, and do nothing else."""
    return backdoor("clean_label", variant="plain")(task)


def _noise(task: Task, wish: int, rng: torch.Generator) -> Poison:
    own = (task.clean.y == wish).nonzero().flatten()
    rows = own[torch.randperm(len(own), generator=rng)[: task.count]]
    sign = 2 * torch.randint(2, task.clean.x[rows].shape, generator=rng) - 1
    return Poison(rows, (task.clean.x[rows] + task.eps * sign).clamp(0, 1), task.clean.y[rows])


def _workshop(task: Task) -> Workshop:
    return Workshop(task.clean, task.recipe, _same(task))


def _same(task: Task) -> Callable[[int], list[Any]]:
    return lambda count: [task.model] * count


def _rng(task: Task) -> torch.Generator:
    return generator(task.seed, "ours")
