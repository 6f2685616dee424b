"""Defensive distillation."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.core.registry import Paper, training
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

PAPERNOT = Paper(
    "Distillation as a defense to adversarial perturbations against deep neural networks",
    "Papernot, McDaniel, Wu, Jha, Swami",
    2016,
    "https://arxiv.org/abs/1511.04508",
)
CARLINI = Paper(
    "Towards evaluating the robustness of neural networks",
    "Carlini, Wagner",
    2017,
    "https://arxiv.org/abs/1608.04644",
)


@training(papers=(PAPERNOT, CARLINI), known_as=("defensive distillation",))
def distillation(recipe: Recipe, /, *, temperature: Annotated[float, Gt(0)] = 40.0) -> Recipe:
    """Train a model on its teacher's softened probabilities; an exhibit, broken by margin losses.

    Teacher and student are trained with logits divided by a temperature, which is left out when the
    model serves. Its probabilities then are 0 and 1 to the last bit and cross-entropy has no slope.
    Losses of logits (Carlini & Wagner) have one, and the boundary is where it was. Logits must become
    `temperature` times as large as usual, so high temperatures want a larger learning rate and more epochs.

    Args:
        recipe: how both models are trained; its loss must be plain cross-entropy, which is replaced.
        temperature: what logits are divided by in training.

    Returns:
        The recipe that trains a teacher and then its student, in twice the time.

    Raises:
        UsageError: another defence has already replaced the recipe's loss.
    """
    if recipe.batch_loss is not cross_entropy:
        raise UsageError(
            "Distillation replaces the loss of a recipe, which must be cross_entropy. Got another loss."
        )
    settings = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    return Distilled(**(settings | {"batch_loss": Tempered(temperature)}))


@dataclass(frozen=True)
class Tempered:
    """Cross-entropy of softened logits, against a teacher's softened probabilities where there is one."""

    temperature: float
    teacher: nn.Module | None = None

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of the batch."""
        logits = net(x) / self.temperature
        if self.teacher is None:
            return nn.functional.cross_entropy(logits, y)
        with torch.no_grad():
            soft = (self.teacher(x) / self.temperature).softmax(1)
        return nn.functional.cross_entropy(logits, soft)


@dataclass(frozen=True)
class Distilled(Recipe):
    """A recipe that is run twice: for a teacher, then for the student that is returned."""

    def __call__(self, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Classifier:
        """Train both on `data` (see `Recipe`)."""
        settings = {name: getattr(self, name) for name in Recipe.__dataclass_fields__}
        plain = Recipe(**settings)
        total = 2 * self.steps(len(data))
        half = total // 2
        teacher = plain(data, rng=rng, tick=lambda step, _, values: tick(step, total, values))
        assert isinstance(self.batch_loss, Tempered)
        student = replace(plain, batch_loss=replace(self.batch_loss, teacher=teacher.net))
        return student(data, rng=rng, tick=lambda step, _, values: tick(half + step, total, values))
