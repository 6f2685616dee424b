"""Adversarial training."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor, nn

from casemate.core.recipe import BatchLoss, Recipe
from casemate.core.registry import Paper, training
from casemate.defences.training.inner import climb, step_length, still
from casemate.defences.training.weights import WorstWeights
from casemate.ops.losses import error_odds
from casemate.ops.norms import random_in_ball
from casemate.ops.rng import RowGenerator

MADRY = Paper(
    "Towards deep learning models resistant to adversarial attacks",
    "Madry, Makelov, Schmidt, Tsipras, Vladu",
    2018,
    "https://arxiv.org/abs/1706.06083",
)
WU = Paper(
    "Adversarial weight perturbation helps robust generalization",
    "Wu, Xia, Wang",
    2020,
    "https://arxiv.org/abs/2004.05884",
)


@training(
    papers=(MADRY, WU),
    known_as=(
        "PGD adversarial training", "adversarial training", "PGD-AT", "AWP", "adversarial weight perturbation",
    ),
)  # fmt: skip
def adversarial(
    recipe: Recipe,
    /,
    *,
    eps: Annotated[float, Gt(0)] = 8 / 255,
    norm: Literal["linf", "l2", "l1"] = "linf",
    steps: Annotated[int, Ge(1)] = 7,
    step_size: Annotated[float, Gt(0)] | None = None,
    awp: Annotated[float, Ge(0)] = 0.0,
    average: Annotated[float, Ge(0), Lt(1)] = 0.0,
) -> Recipe:
    """Train on attacked images: each batch is moved to where the net errs most, then learnt.

    The batch is attacked by projected gradient descent from a random start. What the recipe would
    have minimised on the clean batch it minimises on the attacked one, so other changes of the loss
    stay in force. Robust overfitting sets in after many passes with a high learning rate; against it
    the loss may be taken at the worst weights nearby (`awp`), and the weights may be averaged over
    the steps (`average`). A recipe has few passes and its rate falls to zero, so both are off unless
    asked for.

    Args:
        recipe: how the model is trained.
        eps: radius of the ball that the model should withstand, in units of `x`.
        norm: norm of that ball.
        steps: gradient steps of the attack on each batch; training takes about steps + 1 times as
            long as without.
        step_size: length of one step in that norm, in units of `x`; None means 2.5 * eps / steps.
        awp: how far the weights move to where the loss on the attacked batch is largest, as a share of
            their norm (Wu et al. take 0.005); 0 leaves them.
        average: share that each step keeps of the running mean of the weights, in [0, 1); 0 takes
            the last weights.

    Returns:
        The recipe with attacked batches.
    """
    loss = WorstWeights(recipe.batch_loss, awp) if awp else recipe.batch_loss
    attacked = Attacked(loss, eps, norm, steps, step_size)
    return replace(recipe, batch_loss=attacked, average=average or recipe.average)


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
