"""What the harness knows about the target, including what adversaries must not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from casemate.assess.case import Case
from casemate.assess.result import Curve, Flag, Spent
from casemate.assess.store import Store
from casemate.core.adaptive import Hooks
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick
from casemate.core.workers import Done, Job
from casemate.ops.stats import Estimate

PLAIN = Hooks()


class TrainMany(Protocol):
    """Train several victims side by side: recipes, data and seeds in, classifiers out, in order."""

    def __call__(self, jobs: Sequence[Job], /, *, tick: Tick, done: Done = ...) -> list[Classifier]:
        """Train the jobs."""
        ...


@dataclass(frozen=True)
class Bench:
    """A target with its data, ready to be attacked.

    `test` was not seen in training, `train` was; `train` and `recipe` may be None, and then
    poisoning and membership cannot be tested. `train_many` trains victims in parallel; `cache` keeps
    what several cases share, such as clean victims and shadow models, for one run, and with
    `keep_poisoned` poisoned victims as well, for whoever tries several defences on them. An attack crafted
    elsewhere works on `surrogate`, the mean logits of the adversary's own models. `hooks` are what the
    target calls for where a plan says nothing else.
    """

    target: Classifier
    prepared: Prepared
    test: Samples
    train: Samples | None
    recipe: Recipe | None
    train_many: TrainMany
    store: Store
    digests: Mapping[str, str] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    keep_poisoned: bool = False
    surrogate: Prepared | None = None
    hooks: Hooks = PLAIN


@dataclass(frozen=True)
class Measured:
    """What a family's judge found: numbers, curves, doubts, cost and evidence."""

    headline: str
    metrics: dict[str, Estimate]
    baseline: dict[str, Estimate]
    clean: dict[str, Estimate]
    curves: dict[str, Curve] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    spent: Spent = field(default_factory=Spent)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, object] = field(default_factory=dict)


Measure = Callable[[Entry, Case, Bench, Tick], Measured]
