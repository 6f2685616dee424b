"""Detection of adversarial inputs by feature squeezing."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor, nn

from casemate.core.adaptive import Behind
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, serving
from casemate.core.target import Classifier
from casemate.core.threat import Goal, Loss, Misclassify, WithLoss
from casemate.defences.serving.bit_depth import BitDepth

XU = Paper(
    "Feature squeezing: detecting adversarial examples in deep neural networks",
    "Xu, Evans, Qi",
    2018,
    "https://arxiv.org/abs/1704.01155",
)
CARLINI = Paper(
    "Adversarial examples are not easily detected: bypassing ten detection methods",
    "Carlini, Wagner",
    2017,
    "https://arxiv.org/abs/1705.07263",
)


class Watched(nn.Module):
    """A net with one more class, "rejected": x (N, C, H, W) -> logits (N, K + 1).

    The last logit exceeds all others by how far the suspicion exceeds the threshold.
    """

    def __init__(self, target: Classifier, threshold: float, levels: int) -> None:
        super().__init__()
        self.net = Behind(target)
        self.squeeze = BitDepth(levels)
        self.threshold = threshold

    def suspicion(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of x, and the l1 distance (N,) to the farther of two squeezed inputs' probabilities."""
        logits = self.net(x)
        p = logits.softmax(1)
        far = [(self.net(z).softmax(1) - p).abs().sum(1) for z in (self.squeeze(x), median(x))]
        return logits, torch.stack(far).amax(0)

    def forward(self, x: Tensor) -> Tensor:
        """Classify or reject x."""
        logits, suspicion = self.suspicion(x)
        rejected = logits.amax(1) + suspicion - self.threshold
        return torch.cat([logits, rejected[:, None]], 1)


def median(x: Tensor) -> Tensor:
    """Smooth pictures (N, C, H, W) by the median of each 2x2 square."""
    padded = nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    squares = [padded[..., i : i + x.shape[2], j : j + x.shape[3]] for i in (0, 1) for j in (0, 1)]
    middle = torch.stack(squares).sort(0).values[1:3]
    return middle.mean(0)


@serving(papers=(XU, CARLINI), known_as=("feature-squeezing detector", "squeezing detector"))
def detector(
    target: Classifier,
    /,
    *,
    threshold: Annotated[float, Ge(0)] = 1.0,
    levels: Annotated[int, Ge(2)] = 8,
    rng: Generator,
) -> Classifier:
    """Reject pictures whose class probabilities change when they are squeezed; an exhibit.

    Squeezers are a coarser bit depth and a median filter. Rejection is one more class, the last one. An
    attack whose loss knows the detector (`evading`) breaks it.

    Args:
        target: the classifier of pictures to defend.
        threshold: l1 distance of probabilities, in [0, 2], from which a picture is rejected; `calibrate`
            finds that of a given rate of false alarms.
        levels: values that the bit depth leaves.
        rng: not used; the defence is deterministic.

    Returns:
        The classifier with the class K for rejected inputs.

    Raises:
        NotApplicable: the target does not take pictures, or gives labels only.
    """
    if len(target.shape) != 3 or target.outputs == "labels":
        raise NotApplicable("The detector needs pictures and a target that gives scores.")
    watched = Watched(target, threshold, levels)
    return Classifier(
        watched, target.classes + 1, target.shape, differentiable=target.differentiable, device=target.device
    )


def calibrate(target: Classifier, x: Tensor, false_alarms: float = 0.05, levels: int = 8) -> float:
    """Find the threshold that rejects a share of clean pictures x (N, C, H, W)."""
    watched = Watched(target, 0.0, levels)
    scores = Classifier(watched, target.classes + 1, target.shape, device=target.device).predict(x)
    suspicion = scores[:, -1] - scores[:, :-1].amax(1)
    return float(suspicion.quantile(1 - false_alarms))


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


def evading(y: Tensor) -> Goal:
    """Goal of an attack that knows the detector: a wrong class, with a loss that fears rejection."""
    return WithLoss(Undetected(y), _fear)


def _fear(goal: Undetected, logits: Tensor) -> Tensor:
    """Margin of a wrong class, and once there is one, distance from rejection."""
    wrong = goal.loss(logits, "margin")
    alarm = logits[:, -1] - logits[:, :-1].amax(1)
    # the margin counts up to a size that squeezing does not undo; the alarm is in units of probability
    return wrong.clamp(max=ENOUGH) - WEIGHT * (alarm + SAFE).clamp(min=0)


ENOUGH, WEIGHT, SAFE = 8.0, 4.0, 0.05
