"""Adversarial examples that fool people who see them for a moment: an ensemble behind a retina."""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp
from casemate.core.tick import Tick, ignore
from casemate.core.transfer import Sight, gradient, traced
from casemate.ops.norms import project
from casemate.ops.rng import RowGenerator

ELSAYED = Paper(
    "Adversarial examples that fool both computer vision and time-limited humans",
    "Elsayed, Shankar, Cheung, Papernot, Kurakin, Goodfellow, Sohl-Dickstein",
    2018,
    "https://arxiv.org/abs/1802.08195",
)
FOVEA = 0.25  # radius that is seen sharply, in half image widths
LEVELS = 4  # blurred copies between which pixels are mixed


@evasion(
    norms=("linf",),
    papers=(ELSAYED,),
    known_as=("Human AE", "adversarial examples that fool humans", "time-limited humans"),
    coarse=True,
    cost=lambda params, classes: Cost(queries=params.steps, gradients=params.steps),
)
def human(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 20,
    step_size: Annotated[float, Gt(0)] | None = None,
    blur: Annotated[float, Ge(0)] = 1.5,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Make examples by an ensemble that sees as an eye does: sharp in the middle, blurred around.

    Signed gradient steps towards the goal, on the mean of several nets behind a model of the retina.
    What fools all of them is likelier to sway people who see the picture for 60 to 70 milliseconds
    (`casemate human-study` puts that to the test). With `blur` 0 this is the iterative FGSM.

    Args:
        oracle: white-box access to the mean logits of several nets.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row; the paper names a class.
        budget: ball around `x` that the result stays in; the paper has 32/255.
        steps: number of gradient steps; every row takes them all.
        step_size: length of one step, in units of `x`; None means 2 * eps / steps.
        blur: deviation of the blur at the middle of an edge, in pixels; corners are blurred more.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: not used; the method is deterministic.
        tick: called after each step with the mean loss.

    Returns:
        Candidates (N, C, H, W), in the ball and in [0, 1].
    """
    # the paper's steps do not add up to eps exactly either; twice the way lets pixels turn back
    alpha = 2 * budget.radius / steps if step_size is None else step_size
    seen = Sight(looks=(lambda picture, rng: [traced(partial(retina, blur=blur), picture)],))
    x_adv = x.clone()
    for step in range(steps):
        value, grad = gradient(oracle, x_adv, goal, loss, rng, seen)
        x_adv = project(x_adv + alpha * grad.sign(), x, budget.norm, budget.radius)
        tick(step + 1, steps, {"loss": value.mean().item()})
    return x_adv


def retina(x: Tensor, blur: float) -> Tensor:
    """Blur pictures (N, C, H, W) the more, the farther a pixel is from the middle.

    The paper mixes levels of a Laplacian pyramid by a model of acuity. On pictures of few pixels a
    stack of Gaussian blurs of full size does the same without the pyramid's coarse steps: the deviation
    grows linearly from the fovea outwards, and each pixel mixes the two blurs next to its own.
    """
    if x.dim() != 4:
        raise NotApplicable(f"a retina sees pictures (C, H, W), not inputs of shape {tuple(x.shape[1:])}")
    if blur == 0:
        return x
    height, width = x.shape[2:]
    down, across = (
        (torch.arange(side, dtype=x.dtype, device=x.device) + 0.5) / side * 2 - 1 for side in (height, width)
    )
    eccentricity = (down[:, None].square() + across.square()).sqrt()
    # 0 in the fovea, LEVELS - 1 in the corners
    level = ((eccentricity - FOVEA) / (2**0.5 - FOVEA)).clamp(0, 1) * (LEVELS - 1)
    deviation = blur * (2**0.5 - FOVEA) / (1 - FOVEA)
    mixed = torch.zeros_like(x)
    for i in range(LEVELS):
        weight = (1 - (level - i).abs()).clamp(min=0)
        mixed = mixed + weight * gaussian(x, deviation * i / (LEVELS - 1))
    return mixed


def gaussian(x: Tensor, deviation: float) -> Tensor:
    """Blur pictures (N, C, H, W) by a Gaussian of so many pixels; edges are continued."""
    if deviation == 0:
        return x
    reach = min(int(3 * deviation + 0.5), min(x.shape[2:]) - 1)
    ticks = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    line = (-(ticks / deviation).square() / 2).exp()
    down = (line / line.sum()).view(1, 1, -1, 1).expand(x.shape[1], 1, -1, 1)
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode="replicate")
    half = torch.nn.functional.conv2d(padded, down, groups=x.shape[1])
    return torch.nn.functional.conv2d(half, down.transpose(2, 3), groups=x.shape[1])
