"""A second net that rejects attacked inputs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn

from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.core.registry import Paper, training
from casemate.core.target import Classifier
from casemate.core.threat import Goal, Loss, Misclassify, WithLoss
from casemate.defences.training.inner import climb, step_length, still
from casemate.ops.losses import error_odds
from casemate.ops.norms import random_in_ball
from casemate.ops.rng import RowGenerator

GONG = Paper(
    "Adversarial and clean data are not twins",
    "Gong, Wang, Ku",
    2017,
    "https://arxiv.org/abs/1704.04960",
)
CARLINI = Paper(
    "Adversarial examples are not easily detected: bypassing ten detection methods",
    "Carlini, Wagner",
    2017,
    "https://arxiv.org/abs/1705.07263",
)
STEPS = 5  # of the attack on each batch
ENOUGH, SAFE = 2.0, 1.0  # logits: margins beyond which an attack that knows the detector asks for no more
# of the alarm beside the margin, the multiplier of Carlini & Wagner: with a weight of 1 the attack fools fewer
# rows (54 to 60% on development seeds), and one that looks at one goal at a time fewer still
FEAR = 0.2


class Watched(nn.Module):
    """A net with one more class, "rejected", by a second net: x (N, *S) -> logits (N, K + 1).

    The last logit exceeds all others by the watcher's first logit plus `offset`.
    """

    offset: Tensor

    def __init__(self, net: nn.Module, watcher: nn.Module) -> None:
        super().__init__()
        self.net, self.watcher = net, watcher
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Classify or reject x."""
        logits: Tensor = self.net(x)
        alarm = self.watcher(x)[:, :1] + self.offset
        return torch.cat([logits, logits.amax(1, keepdim=True) + alarm], 1)


@dataclass(frozen=True)
class Twice:
    """Maker of a net and its watcher, of the same architecture."""

    make: Callable[[], nn.Module]

    def __call__(self) -> nn.Module:
        """Make both, untrained."""
        return Watched(self.make(), self.make())


@training(papers=(GONG, CARLINI), known_as=("adversarial-example detector", "second-net detector"))
def detector(
    recipe: Recipe,
    /,
    *,
    radius: Annotated[float, Gt(0)] = 0.1,
    weight: Annotated[float, Ge(0)] = 1.0,
) -> Recipe:
    """Train a second net to reject attacked inputs; an exhibit, broken by a loss that knows it.

    The watcher learns to tell each clean batch from the same batch after an attack on the classifier.
    Rejection is one more class, the last one. It catches that attack and hardly any whose loss
    contains the watcher (`evading`). In the paper the two nets are trained one after the other.

    Args:
        recipe: how the model is trained; its loss must be plain cross-entropy, which is replaced.
        radius: linf radius of the attacks that the watcher learns, in units of `x`.
        weight: weight of the watcher's loss, which is in nats as the classifier's.

    Returns:
        The recipe of a classifier with the class K for rejected inputs.

    Raises:
        UsageError: another defence has already replaced the recipe's loss.
    """
    if recipe.batch_loss is not cross_entropy:
        raise UsageError(
            "A detector replaces the loss of a recipe, which must be cross_entropy. Got another loss."
        )
    return replace(
        recipe, make=Twice(recipe.make), name=f"{recipe.name}, watched", batch_loss=Watching(radius, weight)
    )


@dataclass(frozen=True)
class Watching:
    """Cross-entropy of the classes, and of clean against attacked inputs."""

    radius: float
    weight: float

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Attack the batch and compute both losses."""
        start = x + random_in_ball(x, "linf", self.radius, RowGenerator([rng] * len(x)))
        classifier = net.net if isinstance(net, Watched) else net
        with still(net):
            x_adv = climb(
                lambda z: error_odds(classifier(z), y), start, x, "linf", self.radius, STEPS,
                step_length(None, self.radius, STEPS),
            )  # fmt: skip
        clean, attacked = net(x), net(x_adv)
        alarms = torch.cat([_alarm(clean), _alarm(attacked)])
        truth = torch.cat([torch.zeros_like(alarms[: len(x)]), torch.ones_like(alarms[: len(x)])])
        watching = nn.functional.binary_cross_entropy_with_logits(alarms, truth)
        return nn.functional.cross_entropy(clean[:, :-1], y) + self.weight * watching


def _alarm(logits: Tensor) -> Tensor:
    """How clearly rows of logits (N, K + 1) are rejected, (N,)."""
    return logits[:, -1] - logits[:, :-1].amax(1)


def calibrated(model: Classifier, clean: Tensor, false_alarms: float = 0.05) -> Classifier:
    """Set the threshold of a trained detector so that it rejects a share of clean inputs (N, *S)."""
    if not isinstance(model.net, Watched):
        raise UsageError(f"The net to calibrate must be a detector's. Got {type(model.net).__name__}.")
    level = _alarm(model.predict(clean)).quantile(1 - false_alarms)
    net = Watched(model.net.net, model.net.watcher)
    net.offset = model.net.offset - level
    return replace(model, net=net.eval())


class Undetected:
    """Wish that each row be given a wrong class and not be rejected, which is the last class."""

    def __init__(self, y: Tensor) -> None:
        self.y = y

    def __getitem__(self, rows: slice | Tensor) -> "Undetected":
        return Undetected(self.y[rows])

    def to(self, device: torch.device) -> "Undetected":
        """Give the goal on a device."""
        return Undetected(self.y.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K + 1) are wrong and pass, (N,) bool."""
        said = logits.argmax(1)
        return (said != self.y) & (said != logits.shape[1] - 1) & logits.isfinite().all(1)

    def loss(self, logits: Tensor, kind: Loss = "ce") -> Tensor:
        """Measure nearness to a wrong class, (N,), without regard to rejection."""
        return Misclassify(self.y).loss(logits[:, :-1], kind)


class Unaware(Undetected):
    """The same wish of an adversary who does not know of rejection: any wrong class will do."""

    def __getitem__(self, rows: slice | Tensor) -> "Unaware":
        return Unaware(self.y[rows])

    def to(self, device: torch.device) -> "Unaware":
        """Give the goal on a device."""
        return Unaware(self.y.to(device))

    def reached(self, logits: Tensor) -> Tensor:
        """Tell which rows of `logits` (N, K + 1) have a wrong class, rejected or not, (N,) bool."""
        return Misclassify(self.y).reached(logits[:, :-1])


def evading(y: Tensor) -> Goal:
    """Goal of an attack that knows the detector: a wrong class that passes, and a loss that fears rejection."""
    return WithLoss(Undetected(y), _fear)


def _fear(goal: Undetected, logits: Tensor) -> Tensor:
    """Margin of a wrong class, less the weighted alarm; each counts until it is good enough."""
    return goal.loss(logits, "margin").clamp(max=ENOUGH) - FEAR * _alarm(logits).clamp(min=-SAFE)
