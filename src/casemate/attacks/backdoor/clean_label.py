"""Clean-label backdoors: rows of the target class, made hard by themselves, so that the trigger counts."""

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.bfloat16 import bfloat16_copy
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.ensemble import mean_logits
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Prepared
from casemate.core.threat import Misclassify
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import existing, own
from casemate.core.workshop import Workshop
from casemate.generators.files import load
from casemate.generators.models import LatentModel
from casemate.ops.gradients import value_and_grad
from casemate.ops.norms import Norm, project, steepest

TURNER = Paper(
    "Clean-label backdoor attacks",
    "Turner, Tsipras, Madry",
    2018,
    "https://openreview.net/forum?id=HJg6e2CcK7",
)
LABEL_CONSISTENT = Paper(
    "Label-consistent backdoor attacks", "Turner, Tsipras, Madry", 2019, "https://arxiv.org/abs/1912.02771"
)


@backdoor(
    papers=(TURNER, LABEL_CONSISTENT),
    known_as=("Clean-label backdoor attack", "label-consistent backdoor"),
    version=2,
)
def clean_label(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    variant: Literal["adversarial", "generative", "plain"] = "adversarial",
    norm: Literal["linf", "l2"] = "linf",
    eps: Annotated[float, Gt(0)] = 32 / 255,
    steps: Annotated[int, Ge(1)] = 30,
    count: Annotated[int, Ge(1)] = 3,
    tau: Annotated[float, Gt(0), Le(1)] = 0.2,
    generator: str = "generator_fashion_wgan_gp",
    patch: Annotated[int, Ge(1)] = 3,
    amplitude: Annotated[float, Gt(0), Le(1)] = 1.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Make rows of the target class hard to recognise, and put the trigger on them; labels stay right.

    Adversarial: PGD on surrogates moves a row away from its class. Generative: a row is made anew from a
    code between its own and that of a row of another class. Plain: nothing is done, which teaches the
    trigger hardly at all and is there to be compared with.

    Args:
        workshop: training set of images (C, H, W) and models of the adversary's own.
        budget: share of the rows of all classes that may be changed; at most the target's are.
        target: class whose rows are changed and that the trigger should call up, in 0 .. K - 1.
        variant: how a row is made hard.
        norm: norm of the adversarial change.
        eps: radius of the adversarial change, in units of x.
        steps: steps of PGD, of 2.5 eps / steps each.
        count: surrogates whose mean logits are attacked.
        tau: share of the other row's code, in (0, 1]; 0.1 to 0.3 in the paper.
        generator: a shipped generator with an inverter, or a file of one, for images of the same shape.
        patch: side of the chessboard in each of the four corners, in pixels.
        amplitude: contrast of the chessboard: 1 overwrites, less is added to what is there.
        rng: source of the rows, starts and partners.
        tick: called after each step of PGD.

    Returns:
        The changed rows with their own label, the trigger and the target.
    """
    clean = workshop.clean
    if len(clean.shape) != 3 or min(clean.shape[1:]) < 2 * patch:
        raise NotApplicable(f"{patch} pixels in each corner need images. Got inputs of shape {clean.shape}")
    existing(target, clean.classes, "backdoor.clean_label")
    rows = own(clean, target, budget, rng)
    trigger = Corners(patch, amplitude)
    x, y = clean.x[rows], clean.y[rows]
    if len(rows):
        match variant:
            case "adversarial":
                model = Prepared(mean_logits(workshop.surrogates(count)))
                # rows need to be hard, not misread for certain: what bfloat16 finds is as hard
                model.cheap = bfloat16_copy(model, x[:64])
                x = _hard(model, x, y, norm, eps, steps, rng, tick)
            case "generative":
                x = _between(generator, clean, x, target, tau, rng)
            case "plain":
                pass
            case _:
                assert_never(variant)
    return Poison(rows, trigger(x), y.clone(), trigger, target)


def _hard(
    model: Prepared, x: Tensor, y: Tensor, norm: Norm, eps: float, steps: int, rng: Generator, tick: Tick
) -> Tensor:
    """Move rows away from their class by PGD."""
    goal = Misclassify(y)
    start = eps * (2 * torch.rand(x.shape, generator=rng).to(x) - 1)
    x_adv = project(x + start, x, norm, eps)
    for step in range(steps):
        loss, grad = value_and_grad(lambda z: goal.loss(model.steering(z)), x_adv)
        x_adv = project(x_adv + 2.5 * eps / steps * steepest(grad, norm), x, norm, eps)
        tick(step + 1, steps, {"loss": loss.mean().item()})
    return x_adv


def _between(name: str, clean: Samples, x: Tensor, target: int, tau: float, rng: Generator) -> Tensor:
    """Make each row from a code on the way to a random row of another class."""
    try:
        model = load(name)
    except ValueError as error:
        raise NotApplicable(str(error)) from None
    if not isinstance(model, LatentModel) or model.shape != clean.shape:
        raise NotApplicable(f"the generator '{name}' does not make and invert inputs of shape {clean.shape}")
    others = (clean.y != target).nonzero().flatten()
    if not len(others):
        raise NotApplicable("there is no row of another class to go to")
    partners = others[torch.randint(len(others), (len(x),), generator=rng)]
    with torch.no_grad():
        # the paper searches for codes by gradients; the inverter that comes with the generator is quicker
        mixed = tau * model.encode(clean.x[partners]) + (1 - tau) * model.encode(x)
        return model.decode(mixed).to(x).clamp(0, 1)


@dataclass(frozen=True)
class Corners:
    """A chessboard in each corner of an image, mirrored, so that flips leave it as it is."""

    size: int
    amplitude: float

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W)."""
        places = torch.arange(self.size, device=x.device)
        board = ((places[:, None] + places) % 2 == 0).to(x.dtype)
        marked, n = x.clone(), self.size
        for down in (slice(0, n), slice(-n, None)):
            for across in (slice(0, n), slice(-n, None)):
                turned = board if down.start == 0 else board.flip(0)
                turned = turned if across.start == 0 else turned.flip(1)
                there = marked[..., down, across]
                new = turned if self.amplitude == 1 else there + self.amplitude * (2 * turned - 1)
                marked[..., down, across] = new.clamp(0, 1)
        return marked
