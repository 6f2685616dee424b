"""Adversarial training."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from torch import Generator, Tensor, nn

from casemate.core.recipe import BatchLoss, Recipe
from casemate.core.registry import Paper, training
from casemate.defences.training.inner import climb, step_length, still
from casemate.ops.losses import error_odds
from casemate.ops.norms import random_in_ball
from casemate.ops.rng import RowGenerator

MADRY = Paper(
    "Towards deep learning models resistant to adversarial attacks",
    "Madry, Makelov, Schmidt, Tsipras, Vladu",
    2018,
    "https://arxiv.org/abs/1706.06083",
)


@training(papers=(MADRY,), known_as=("PGD adversarial training", "adversarial training", "PGD-AT"))
def adversarial(
    recipe: Recipe,
    /,
    *,
    eps: Annotated[float, Gt(0)] = 8 / 255,
    norm: Literal["linf", "l2", "l1"] = "linf",
    steps: Annotated[int, Ge(1)] = 7,
    step_size: Annotated[float, Gt(0)] | None = None,
) -> Recipe:
    """Train on attacked images: each batch is moved to where the net errs most, then learnt.

    The batch is attacked by projected gradient descent from a random start. What the recipe would
    have minimised on the clean batch it minimises on the attacked one, so other changes of the loss
    stay in force. Nothing is done against robust overfitting: it sets in after many passes with a
    high learning rate, while a recipe has few passes, and its rate falls to zero.

    Args:
        recipe: how the model is trained.
        eps: radius of the ball that the model should withstand, in units of `x`.
        norm: norm of that ball.
        steps: gradient steps of the attack on each batch; training takes about steps + 1 times as
            long as without.
        step_size: length of one step in that norm, in units of `x`; None means 2.5 * eps / steps.

    Returns:
        The recipe with attacked batches.
    """
    return replace(recipe, batch_loss=Attacked(recipe.batch_loss, eps, norm, steps, step_size))


@dataclass(frozen=True)
class Attacked:
    """A batch loss at the worst inputs that a short attack finds."""

    loss: BatchLoss
    eps: float
    norm: Literal["linf", "l2", "l1"]
    steps: int
    step_size: float | None

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Attack the batch and compute its loss."""
        # all rows draw from the training's one stream: a batch is not taken apart
        start = x + random_in_ball(x, self.norm, self.eps, RowGenerator([rng] * len(x)))
        with still(net):
            # log-odds of error: the direction of cross-entropy, also on confident rows
            x_adv = climb(
                lambda z: error_odds(net(z), y), start, x, self.norm, self.eps, self.steps,
                step_length(self.step_size, self.eps, self.steps),
            )  # fmt: skip
        return self.loss(net, x_adv, y, rng=rng)
