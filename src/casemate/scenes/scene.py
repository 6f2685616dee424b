"""What a scene states, by kind of method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from casemate.builtin.data import fashion_mini
from casemate.core.adaptive import Hooks
from casemate.core.budget import Budget
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.threat import Goal, Lp, Misclassify

Source = Literal["paper", "ours"]
PLAIN = Hooks()


@dataclass(frozen=True)
class Bar:
    """What the method must reach: its metric on one side of a value, and clear of the baseline.

    `gap` is the least distance between method and random baseline, in units of the metric; 0 asks for
    none, which only the baseline itself may do. The method must reach `times` the baseline's value.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    gap: float = 0.0
    times: float = 0.0

    def __str__(self) -> str:
        """Write the bar as people read it."""
        side = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        if self.gap == 0:
            return f"{self.metric} {side}"
        times = f", {self.times:g} times the baseline" if self.times else ""
        return f"{self.metric} {side}{times}, and {self.gap:g} away from the baseline, intervals apart"


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
class History:
    """What an online victim has learnt before anybody attacks: `rows` clean rows, by `recipe`."""

    rows: int
    recipe: Callable[[], Recipe]


@dataclass(frozen=True)
class TrainingScene:
    """A poison, backdoor or membership attack on victims trained in the scene.

    The seed chooses the training rows, `train_rows` of them (all where None). With `more` data sets,
    victims are trained on each, and the numbers are means over all of them. With a `history` the victims
    are online: one model learns from rows of its own first, and each victim starts from its weights and
    goes on with the training rows by `recipe`. The adversary knows that model.

    With an `ablation`, the baseline is the same method with those of its settings instead, which leave
    out what it is about. With a `price`, a poison may cost that much clean accuracy at most, in points
    of 1.
    """

    title: str
    bar: Bar
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    rate: float | None = None
    rows: int = 500
    train_rows: int | None = None
    more: tuple[Callable[[], tuple[Samples, Samples]], ...] = ()
    history: History | None = None
    repeats: int = 3
    params: Mapping[str, Any] = field(default_factory=dict)
    ablation: Mapping[str, Any] = field(default_factory=dict)
    price: float | None = None
    source: Source = "ours"


@dataclass(frozen=True)
class DialScene:
    """A poison with a setting, `dial`, that trades the damage it does for being seen.

    The bar is on the error of victims at the value `at`, against that at `harmless`; over the values `sweep`,
    given from the least damage to the most, the error must rise, and so must the area under the ROC of a
    detector: how far a row is from its `neighbours`-th nearest clean training row of its label, of poison
    against clean test rows. `repeats` times a poison is made and a victim trained for each value.
    """

    title: str
    bar: Bar
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    rate: float
    dial: str
    at: float
    harmless: float
    sweep: tuple[float, ...]
    neighbours: int = 5
    repeats: int = 3
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class TargetedScene:
    """A targeted poison: `aims` test rows that the seed chooses, and a victim for each."""

    title: str
    bar: Bar
    budget: Tampering
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]] = fashion_mini
    aims: int = 30
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class DefenceScene:
    """A defence in front of one attack, which runs with and without it.

    `price` is the most clean accuracy, in points of 1, that the defence may cost. `also` are further
    attacks and their rates, with their own settings: bar and price hold for the worst of all.
    """

    title: str
    bar: Bar
    attack: str
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    rate: float | None = None
    budget: Budget | None = None
    rows: int = 500
    repeats: int = 3
    price: float = 0.03
    params: Mapping[str, Any] = field(default_factory=dict)
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class ExhibitScene:
    """A defence that hides, attacked as if it hid nothing and then by an attack that knows it.

    The bar is on the share of rows that the adapted attack fools; the naive one may fool `naive` at most,
    and the defence may cost `price` of the clean accuracy. The defended model is `target` behind the
    serving defence `defence`, or one trained by `recipe` with that defence; `finished` sets what is set
    on clean test rows that the scene does not attack. The naive attack knows no hooks. Goals say what
    counts and which loss is climbed.
    """

    title: str
    bar: Bar
    defence: str
    budget: Lp
    target: Callable[[], Classifier]
    naive: float = 0.15
    recipe: Callable[[], Recipe] | None = None
    data: Callable[[], tuple[Samples, Samples]] = fashion_mini
    params: Mapping[str, Any] = field(default_factory=dict)
    finished: Callable[[Classifier, Samples], Classifier] | None = None
    attack: str = "evasion.pgd"
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    naive_params: Mapping[str, Any] = field(default_factory=dict)
    hooks: Hooks = PLAIN
    goal: Callable[[Tensor], Goal] = Misclassify
    naive_goal: Callable[[Tensor], Goal] = Misclassify
    rows: int = 200
    price: float = 0.1
    source: Source = "ours"


@dataclass(frozen=True)
class CertifiedScene:
    """A model trained with noise and smoothed: rows that are right for certain up to an l2 `radius`.

    The baseline is the same without noise in training. An attack on the smoothed model must break no
    row that is certain.
    """

    title: str
    bar: Bar
    recipe: Callable[[], Recipe]
    radius: float
    sigma: float
    guesses: int = 100
    draws: int = 1000
    alpha: float = 0.001
    data: Callable[[], tuple[Samples, Samples]] = fashion_mini
    rows: int = 200
    attacked: int = 40
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class DividedScene:
    """Nets trained on parts of the data: test rows that are right for certain if `changes` training rows change.

    The baseline is one net, of which nothing is certain. Relabelling as many training rows, chosen by an
    adversary who knows the parts, must break no row that is certain; the defence may cost `price` of the
    clean accuracy.
    """

    title: str
    bar: Bar
    recipe: Callable[[], Recipe]
    changes: int
    data: Callable[[], tuple[Samples, Samples]] = fashion_mini
    rows: int = 500
    price: float = 0.1
    params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


@dataclass(frozen=True)
class ScanningScene:
    """A scanning asked about models with and without a backdoor, all trained in the scene.

    The bar is on the share of `victims` models, poisoned by `attack` each with another target and seed, that
    are called backdoored with the right class before all others; the baseline is the share of `clean` models
    that are called backdoored. `rows` test rows are what the scanning has.
    """

    title: str
    bar: Bar
    attack: str
    rate: float
    recipe: Callable[[], Recipe]
    data: Callable[[], tuple[Samples, Samples]]
    clean: int = 20
    victims: int = 8
    rows: int = 300
    params: Mapping[str, Any] = field(default_factory=dict)
    attack_params: Mapping[str, Any] = field(default_factory=dict)
    source: Source = "ours"


Scene = (
    EvasionScene
    | TrainingScene
    | DialScene
    | TargetedScene
    | DefenceScene
    | ExhibitScene
    | CertifiedScene
    | DividedScene
    | ScanningScene
)
