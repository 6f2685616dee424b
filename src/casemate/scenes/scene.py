"""What a scene states, by kind of method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from casemate.builtin.data import fashion_mini
from casemate.core.budget import Budget
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.threat import Lp

Source = Literal["paper", "ours"]


@dataclass(frozen=True)
class Bar:
    """What the method must reach: its metric on one side of a value, and clear of the baseline.

    `gap` is the least distance between method and random baseline, in units of the metric; 0 asks for
    none, which only the baseline itself may do.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    gap: float = 0.0

    def __str__(self) -> str:
        """Write the bar as people read it."""
        side = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        if self.gap == 0:
            return f"{self.metric} {side}"
        return f"{self.metric} {side}, and {self.gap:g} away from the baseline, intervals apart"


@dataclass(frozen=True)
class EvasionScene:
    """An attack on a finished model: `rows` test rows that the seed chooses.

    The model is `target`, or one that `recipe` trains in the scene, with the seed. An attack that is
    crafted elsewhere works on the mean logits of `surrogates`, also trained in the scene.
    """

    title: str
    bar: Bar
    budget: Budget
    target: Callable[[], Classifier] | None = None
    data: Callable[[], tuple[Samples, Samples]] = fashion_mini
    recipe: Callable[[], Recipe] | None = None
    surrogates: tuple[Callable[[], Recipe], ...] = ()
    rows: int = 200
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class TrainingScene:
    """A poison, backdoor or membership attack on victims trained in the scene.

    The seed chooses the training rows, `train_rows` of them (all where None).
    """

    title: str
    bar: Bar
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    rate: float | None = None
    rows: int = 500
    train_rows: int | None = None
    repeats: int = 3
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class DefenceScene:
    """A defence in front of one attack, which runs with and without it.

    `price` is the most clean accuracy, in points of 1, that the defence may cost.
    """

    title: str
    bar: Bar
    attack: str
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    rate: float | None = None
    budget: Lp | None = None
    rows: int = 500
    repeats: int = 3
    price: float = 0.03
    params: Mapping[str, Any] = field(default_factory=dict)
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


Scene = EvasionScene | TrainingScene | DefenceScene
