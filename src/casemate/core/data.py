"""Data, the poison in it, and what a membership attacker may know."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from casemate.core.errors import UsageError
from casemate.core.target import LabelOracle, ScoreOracle


@dataclass(frozen=True)
class Samples:
    """Labelled inputs: x (N, *S) float32 in [0, 1], y (N,) int64 in 0 .. classes - 1."""

    x: Tensor
    y: Tensor
    classes: int
    names: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise UsageError(
                f"Data must have one label per input. Got {len(self.x)} inputs and {len(self.y)} labels."
            )
        if len(self.y) and not (int(self.y.min()) >= 0 and int(self.y.max()) < self.classes):
            raise UsageError(
                f"Labels must be in 0 .. {self.classes - 1}. Got {int(self.y.min())} .. {int(self.y.max())}."
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return type(self)(self.x[rows], self.y[rows], self.classes, self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape S of one input."""
        return tuple(self.x.shape[1:])


@dataclass(frozen=True)
class PoisonBudget:
    """How much of a training set an adversary may change: a share of its rows, in [0, 1]."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise UsageError(
                f"The 'rate' of a poison budget must be in [0, 1], a share of the rows. Got {self.rate}."
            )

    def rows(self, n: int) -> int:
        """Number of rows of n that may be changed."""
        return round(self.rate * n)


@dataclass(frozen=True)
class Poison:
    """Changes to a training set: `rows` (M,) get inputs x (M, *S) and labels y (M,).

    `trigger` maps inputs (N, *S) to inputs that carry the adversary's mark, and `target` is the
    class it should give them; both are None for poisons without a trigger.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    trigger: Callable[[Tensor], Tensor] | None = None
    target: int | None = None

    def apply(self, clean: Samples) -> Samples:
        """Make the poisoned training set; `clean` stays as it is."""
        x, y = clean.x.clone(), clean.y.clone()
        x[self.rows], y[self.rows] = self.x, self.y
        return Samples(x, y, clean.classes, clean.names)


@dataclass(frozen=True)
class Shadow:
    """A model trained by the attacker, and which of the scored rows were in its training set.

    `oracle` answers for the rows that are scored (N); `members` is (N,) bool.
    """

    oracle: ScoreOracle
    members: Tensor


@dataclass(frozen=True)
class World:
    """What a membership attacker has: data of the same kind, and shadow models on request.

    `shadows(k)` gives k models, each trained by the victim's recipe on as many rows as the victim: a
    random half of the scored rows, and other data of the same kind. Who is a member of the victim's
    training set is not known here.
    """

    population: Samples
    shadows: Callable[[int], Sequence[Shadow]]


@dataclass(frozen=True)
class Practice:
    """Programs that an adversary of malware detectors has besides those to be hidden.

    The target answers for `samples` through `oracle`, whose access is that of the attack; `rng` is
    where numbers come from that belong to no row.
    """

    samples: Samples
    oracle: LabelOracle
    rng: torch.Generator


def split(samples: Samples, first: int, generator: torch.Generator) -> tuple[Samples, Samples]:
    """Divide samples at random into `first` rows and the rest."""
    order = torch.randperm(len(samples), generator=generator)
    return samples[order[:first]], samples[order[first:]]


def row_digests(x: Tensor) -> list[bytes]:
    """Digest each row of x (N, *S) by its bytes: what a row is called whatever stands beside it."""
    return [hashlib.sha256(row.numpy().tobytes()).digest() for row in x.detach().cpu().contiguous()]
