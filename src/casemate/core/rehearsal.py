"""A victim's training played through step by step, so that what a step does can be differentiated.

The steps are those of `Recipe`: Adam with the same learning rates in the same order. A poison that is
crafted for plain gradient steps does little to a victim that takes others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import Learner, Weights
from casemate.core.recipe import Recipe, cross_entropy, one_cycle

KEEP_MEAN, KEEP_SIZE, TINY = 0.9, 0.999, 1e-8  # of Adam, as in torch.optim.AdamW


@dataclass(frozen=True)
class Stage:
    """Where a training stands: weights, Adam's two running means, and how many steps were taken."""

    weights: Weights
    means: Weights
    sizes: Weights
    step: int = 0


@dataclass(frozen=True)
class Mixture:
    """Batches as a poisoned training set gives them, clean rows drawn at random from `clean`.

    `share` is the share of poison: clean and poisoned rows are weighted by it, so that a few poisons in
    a batch count as much as they do on average.
    """

    clean: Samples
    share: float
    batch: int

    @property
    def poisons(self) -> int:
        """Number of poisons in a batch, at least one."""
        return max(1, round(self.share * self.batch))

    def loss(self, of: Learner, weights: Weights, x: Tensor, y: Tensor, rng: Generator) -> Tensor:
        """Compute the loss of a batch whose poisons are x (M, *S) with labels y (M,)."""
        poisoned = of.loss(weights, x, y)
        if not len(self.clean) or self.share >= 1:
            return poisoned
        count = max(1, self.batch - self.poisons)
        some = torch.randint(len(self.clean), (count,), generator=rng).to(self.clean.y.device)
        fair = of.loss(weights, self.clean.x[some], self.clean.y[some])
        return (1 - self.share) * fair + self.share * poisoned


@dataclass(frozen=True)
class Rehearsal:
    """The training of `learner` by `recipe` on n rows; what it starts from are the learner's own weights.

    An average of weights at the end changes no step and is left out. Raises NotApplicable for a recipe
    with a loss or a course of its own.
    """

    learner: Learner
    recipe: Recipe
    rows: int

    def __post_init__(self) -> None:
        if self.recipe.batch_loss is not cross_entropy or self.recipe.course is not None:
            raise NotApplicable(
                f"'{self.recipe.name}' does not descend cross-entropy alone, and no other training is played through"
            )

    def begin(self) -> Stage:
        """Stand before the first step."""
        start = self.learner.start()
        nothing = tuple(torch.zeros_like(w) for w in start)
        return Stage(start, nothing, nothing)

    def over(self, stage: Stage) -> bool:
        """Tell whether all steps are taken."""
        return stage.step >= self.recipe.steps(self.rows)

    def advance(self, stage: Stage, losses: Sequence[Callable[[Weights], Tensor]]) -> Stage:
        """Take one step for each loss of a batch; the new weights are functions of what is in the losses."""
        now = Stage(
            tuple(w.detach().requires_grad_() for w in stage.weights),
            tuple(m.detach() for m in stage.means),
            tuple(s.detach() for s in stage.sizes),
            stage.step,
        )
        for loss in losses:
            with torch.enable_grad():
                slopes = torch.autograd.grad(loss(now.weights), now.weights, create_graph=True)
            now = self._adam(now, slopes)
        return now

    def _adam(self, at: Stage, slopes: Weights) -> Stage:
        step = at.step + 1
        rate = self.recipe.lr * one_cycle(min(1.0, at.step / self.recipe.steps(self.rows)))
        means = tuple(KEEP_MEAN * m + (1 - KEEP_MEAN) * g for m, g in zip(at.means, slopes, strict=True))
        # the size of steps counts as given: differentiated as well, early steps would be mere signs
        sizes = tuple(
            KEEP_SIZE * s + (1 - KEEP_SIZE) * g.detach().square()
            for s, g in zip(at.sizes, slopes, strict=True)
        )
        unbiased = 1 - KEEP_MEAN**step, 1 - KEEP_SIZE**step
        weights = tuple(
            w * (1 - rate * self.recipe.weight_decay)
            - rate * m / unbiased[0] / ((s / unbiased[1]).sqrt() + TINY)
            for w, m, s in zip(at.weights, means, sizes, strict=True)
        )
        return Stage(weights, means, sizes, step)
