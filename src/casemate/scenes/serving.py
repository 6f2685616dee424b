"""Scenes of serving defences: those that hide beside the attack that breaks them, and one that stands."""

from dataclasses import replace

from torch import Tensor, nn

from casemate.builtin.target import fashion_cnn, recipe
from casemate.core.adaptive import AUTO, Hooks
from casemate.core.data import Samples
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.core.threat import Goal, Lp, Misclassify, WithLoss
from casemate.defences.training.detector import Unaware, calibrated, evading
from casemate.scenes.scene import Bar, CertifiedScene, ExhibitScene, Scene

STEPS = {"steps": 40, "loss": "margin"}
BROKEN = Bar("success_rate", at_least=0.6, gap=0.3)


def linf(eps: float) -> Lp:
    """Ball of the largest change of a value."""
    return Lp(norm="linf", eps=eps)


def literally(y: Tensor) -> Goal:
    """Misclassify by cross-entropy as it is computed, which a sure model leaves without a slope."""
    return WithLoss(Misclassify(y), _cross_entropy)


def _cross_entropy(goal: Misclassify, logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, goal.y, reduction="none")


def longer() -> Recipe:
    """Give the built-in net the passes that training with noise needs."""
    return replace(recipe(), epochs=12)


def hotter() -> Recipe:
    """Give the built-in net the passes and the rate that distillation at temperature 100 needs.

    Logits must grow a hundredfold for the softened probabilities to be as sure as those of a plain net.
    At the built-in rate twelve passes do not get them there: accuracy was 7 and 11 points lower on two
    seeds. The squared temperature as a factor of the loss would change nothing, since Adam's steps do not
    depend on it.
    """
    return replace(recipe(), epochs=20, lr=2e-2)


def shorter() -> Recipe:
    """Give the built-in net as few passes as a watcher beside it needs."""
    return replace(recipe(), epochs=5)


def five_percent(model: Classifier, rest: Samples) -> Classifier:
    """Set a detector to 5% false alarms on test pictures that the scene does not use."""
    return calibrated(model, rest.x, 0.05)


def _certain() -> CertifiedScene:
    return CertifiedScene(
        title="A net trained with noise and smoothed is right for certain up to l2 0.25",
        bar=Bar("certified_accuracy", at_least=0.6, gap=0.2),
        recipe=longer,
        radius=0.25,
        # at 0.25 some nets bear the noise untrained; at 0.35 training with it is what makes the difference
        sigma=0.35,
    )


SCENES: dict[str, Scene] = {
    "evasion.bpda": ExhibitScene(
        title="Four levels stop PGD and not BPDA: every row within linf 0.18",
        # random signs jump over levels as well: the tenth draw fools half of the rows
        bar=Bar("success_rate", at_least=0.95, gap=0.3),
        naive=0.1,
        defence="serving.bit_depth",
        target=fashion_cnn,
        budget=linf(0.18),
        attack="evasion.bpda",
        naive_params=STEPS,
    ),
    "serving.bit_depth": ExhibitScene(
        title="Four levels stop PGD and not BPDA, within linf 0.15",
        bar=BROKEN,
        defence="serving.bit_depth",
        target=fashion_cnn,
        params={"levels": 4},
        budget=linf(0.15),
        attack="evasion.bpda",
        naive_params=STEPS,
    ),
    "serving.jpeg": ExhibitScene(
        title="Compression stops PGD and not BPDA with a smooth rounding, within linf 0.1",
        bar=BROKEN,
        defence="serving.jpeg",
        target=fashion_cnn,
        budget=linf(0.1),
        attack="evasion.bpda",
        naive_params=STEPS,
    ),
    "serving.total_variation": ExhibitScene(
        title="Redrawing at random stops PGD and not BPDA with EOT, within linf 0.15",
        bar=BROKEN,
        defence="serving.total_variation",
        target=fashion_cnn,
        budget=linf(0.15),
        attack_params={"steps": 20, "loss": "margin"},
        naive_params=STEPS,
        hooks=Hooks(eot=10, bpda=(AUTO,), answers=11),
        rows=100,
    ),
    "serving.random_resize": ExhibitScene(
        title="Random sizes and places slow PGD down and not EOT, within linf 0.09",
        bar=BROKEN,
        # the goal is 15%, but a single draw points the right way on some rows: 13% to 15% of them.
        # Smaller pictures (0.75) gave 10% to 18% and cost up to 11 points; within 0.08 it was 2% to 14% on
        # five seeds, but EOT fooled only 62% to 71% there
        naive=0.2,
        defence="serving.random_resize",
        target=fashion_cnn,
        params={"smallest": 0.8},
        budget=linf(0.09),
        attack_params=STEPS,
        naive_params=STEPS,
        hooks=Hooks(eot=20, answers=11),
        rows=100,
        price=0.15,
    ),
    "training.thermometer": ExhibitScene(
        title="A thermometer code stops PGD and not BPDA through ramps, within linf 0.15",
        bar=BROKEN,
        defence="training.thermometer",
        target=fashion_cnn,
        recipe=recipe,
        budget=linf(0.15),
        attack="evasion.bpda",
        naive_params=STEPS,
    ),
    "training.distillation": ExhibitScene(
        title="A distilled net leaves cross-entropy without a slope and margins as they were, within linf 0.08",
        bar=BROKEN,
        defence="training.distillation",
        target=fashion_cnn,
        recipe=hotter,
        params={"temperature": 100.0},
        # noise alone fools up to 12% within 0.1, which the naive attack starts from
        budget=linf(0.08),
        attack_params=STEPS,
        naive_params=STEPS,
        naive_goal=literally,
    ),
    "training.detector": ExhibitScene(
        title="A second net rejects PGD at 5% false alarms, and not an attack that knows it, within linf 0.1",
        bar=BROKEN,
        defence="training.detector",
        target=fashion_cnn,
        recipe=shorter,
        finished=five_percent,
        budget=linf(0.1),
        attack_params={"steps": 100, "step_size": 0.01, "restarts": 3},
        naive_params=STEPS,
        goal=evading,
        naive_goal=Unaware,
    ),
    "serving.smoothing": _certain(),
    "training.gaussian": _certain(),
}
