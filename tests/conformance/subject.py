"""One evasion method in one norm and precision, and how the battery runs it."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from casemate.core.registry import Entry
from casemate.core.target import GradientOracle, LabelOracle, Ledger, Prepared
from casemate.core.threat import Goal, Lp, Misclassify
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import Norm, rounding
from casemate.ops.rng import rows as row_streams
from conformance.models import Setting

# radii at which most rows of the small models can be fooled
EPS: dict[Norm, float] = {"linf": 0.1, "l2": 0.4, "l1": 1.2, "l0": 4}
STEPS = 10
QUERIES = 60


def quick(entry: Entry) -> dict[str, Any]:
    """Parameters with every count reduced, so that a run on a small model takes milliseconds."""
    reduced = {}
    for name, parameter in entry.params.model_fields.items():
        count = QUERIES if "queries" in name else STEPS
        if type(parameter.default) is int and parameter.default > count:
            reduced[name] = count
    return entry.validate(reduced)


@dataclass(frozen=True)
class Attacked:
    """What a run returned and spent."""

    x_adv: Tensor
    ledger: Ledger
    oracle: LabelOracle


@dataclass(frozen=True)
class Subject:
    """An evasion method under test."""

    entry: Entry
    norm: Norm
    dtype: torch.dtype
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.entry.name}-{self.norm}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def white_box(self) -> bool:
        return issubclass(self.entry.access, GradientOracle)

    @property
    def eps(self) -> float:
        return EPS[self.norm]

    def attack(
        self,
        setting: Setting,
        goal: Goal | None = None,
        *,
        eps: float | None = None,
        limit: int | None = None,
        rows: list[int] | None = None,
        seed: int = 0,
        tick: Tick = ignore,
        prepared: Prepared | None = None,
        **params: Any,
    ) -> Attacked:
        """Run the method on all rows of a setting; `rows` names their random streams.

        Methods without gradients get a `limit` of queries unless one is given.
        """
        if limit is None and not self.white_box:
            limit = QUERIES
        budget = Lp(norm=self.norm, eps=self.eps if eps is None else eps, queries=limit)
        goal = Misclassify(setting.y) if goal is None else goal
        ledger = Ledger.empty(len(setting.x), limit)
        oracle = self.entry.access(prepared or Prepared(setting.target), ledger)
        streams = row_streams(seed, len(setting.x) if rows is None else rows)
        settings = self.entry.validate(quick(self.entry) | self.params | params)
        x_adv = self.entry.run(oracle, setting.x, goal, budget, rng=streams, tick=tick, **settings)
        return Attacked(x_adv, ledger, oracle)

    def fooled(
        self, setting: Setting, x_adv: Tensor, goal: Goal | None = None, eps: float | None = None
    ) -> Tensor:
        """Tell which rows reach the goal within the ball, (N,) bool, from the tensors alone."""
        goal = Misclassify(setting.y) if goal is None else goal
        inside = distance(x_adv - setting.x, self.norm) <= room(
            setting.x, self.norm, self.eps if eps is None else eps
        )
        return goal.reached(setting.target.predict(x_adv)) & inside & in_box(x_adv)

    def hits(self, setting: Setting, **options: Any) -> int:
        """Run the method and count the rows it fools."""
        goal, eps = options.pop("goal", None), options.pop("eps", None)
        x_adv = self.attack(setting, goal, eps=eps, **options).x_adv
        return int(self.fooled(setting, x_adv, goal, eps).sum())


def distance(delta: Tensor, norm: Norm) -> Tensor:
    """Size of each row in float64, written out again so that it does not rely on what it checks."""
    flat = delta.detach().double().flatten(1)
    if norm == "linf":
        return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(len(flat))
    if norm == "l2":
        return flat.square().sum(1).sqrt()
    if norm == "l1":
        return flat.abs().sum(1)
    # channels of one pixel count once
    changed = delta.ne(0).any(1) if delta.dim() == 4 else delta.ne(0)
    return changed.flatten(1).sum(1).double()


def room(x: Tensor, norm: Norm, eps: float) -> float:
    """Largest size that counts as inside the ball."""
    return math.inf if eps == math.inf else eps * (1 + 1e-6) + rounding(x, norm)


def in_box(x_adv: Tensor) -> Tensor:
    """Tell which rows lie in [0, 1], exactly; values that are no numbers do not."""
    return ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
