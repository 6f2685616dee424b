"""Robust physical perturbations: stickers that work from many views."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import avg_pool2d, logsigmoid

from casemate.core.channel import Channel
from casemate.core.errors import NotApplicable
from casemate.core.physical import PhysicalBudget, Sticker
from casemate.core.registry import Paper, physical
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

EYKHOLT = Paper(
    "Robust physical-world attacks on deep learning visual classification",
    "Eykholt, Evtimov, Fernandes, Li, Rahmati, Xiao, Prakash, Kohno, Song",
    2018,
    "https://arxiv.org/abs/1707.08945",
)
SHARIF = Paper(
    "Accessorize to a crime: real and stealthy attacks on state-of-the-art face recognition",
    "Sharif, Bhagavatula, Bauer, Reiter",
    2016,
    "https://doi.org/10.1145/2976749.2978392",
)
SHAPES = (1.0, 2.0, 0.5, 4.0, 0.25)  # width over height of the boxes that are tried
BETAS, GUARD = (0.9, 0.999), 1e-8  # Adam's usual settings


@physical(
    papers=(EYKHOLT, SHARIF),
    known_as=("RP2", "robust physical perturbations", "sticker attack", "camouflage art attack"),
)
def rp2(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: PhysicalBudget,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 80,
    mask_steps: Annotated[int, Ge(1)] = 40,
    draws: Annotated[int, Ge(1)] = 10,
    boxes: Annotated[int, Ge(1)] = 4,
    step_size: Annotated[float, Gt(0)] = 0.1,
    sparsity: Annotated[float, Ge(0)] = 0.03,
    printability: Annotated[float, Ge(0)] = 0.01,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Find where stickers hurt most, then colour them so that they work through the channel.

    A first pass changes the whole picture under an L1 penalty and shows where the target is
    vulnerable; boxes are laid on the strongest places until the area is spent. A second pass
    minimises the loss, in the mean over random ways through the channel, plus the non-printability
    score of the stickers: per pixel the product of its distances to the printable colours.

    Args:
        oracle: white-box access to the target.
        x: clean pictures (N, C, H, W), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: area of the stickers and the channel, a sticker budget.
        steps: number of Adam steps that colour the stickers.
        mask_steps: number of Adam steps that look for their places.
        draws: ways through the channel per picture and step.
        boxes: number of stickers per picture.
        step_size: learning rate of Adam, in units of `x`.
        sparsity: weight of the L1 norm in the first pass, per unit of it.
        printability: weight of the non-printability score, per pixel.
        rng: source of the draws, one stream per row.
        tick: called after each step with the mean log-probability of the goal.

    Returns:
        Pictures (N, C, H, W) with stickers on at most the budget's area.

    Raises:
        NotApplicable: the budget is a print.
    """
    if not isinstance(budget, Sticker):
        raise NotApplicable("physical.rp2 lays stickers; prints are for physical.eot and physical.printed")
    each = torch.arange(len(x), device=x.device).repeat_interleave(draws)
    asked, wish, total = oracle[each], goal[each], mask_steps + steps
    palette = printable(budget.channel, x)
    mask = torch.ones_like(x[:, :1])
    at = x.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(total):
        if step == mask_steps:
            mask = boxes_around((at - x).abs().sum(1), budget.pixels(*x.shape[2:]), boxes)
            # the colours of the first pass were held back by its penalty: start from grey
            at = torch.where(mask > 0, 0.5, x)
            first, second = torch.zeros_like(x), torch.zeros_like(x)
        ways = budget.channel.sample(draws, rng, tuple(x.shape[1:]))
        z = at.detach().requires_grad_()
        with torch.enable_grad():
            logits = asked.graph(budget.channel.apply(x + mask * (z - x), ways).flatten(0, 1))
            value = logsigmoid(wish.loss(logits)).view(-1, draws).mean(1)
            if step < mask_steps:
                price = sparsity * (z - x).abs().flatten(1).sum(1)
            else:
                # in the mean over the stickers, where the paper has the sum: the weight then does not
                # depend on the resolution
                price = printability * nonprintability(z, palette, mask)
            (grad,) = torch.autograd.grad((price - value).sum(), z)
        count = step + 1 if step < mask_steps else step - mask_steps + 1
        first = BETAS[0] * first + (1 - BETAS[0]) * grad
        second = BETAS[1] * second + (1 - BETAS[1]) * grad.square()
        moved = (first / (1 - BETAS[0] ** count)) / ((second / (1 - BETAS[1] ** count)).sqrt() + GUARD)
        at = (at - step_size * moved).clamp(0, 1)
        tick(step + 1, total, {"log-probability": value.mean().item()} if len(x) else {})
    return torch.where(mask > 0, at, x)


def printable(channel: Channel, like: Tensor) -> Tensor:
    """Colours (P, C) that the channel's printer can make: corners of its gamut, or five greys."""
    low, high = sum(channel.black) / 2, sum(channel.white) / 2
    channels = like.shape[1]
    levels = torch.linspace(low, high, 2 if channels == 3 else 5, dtype=like.dtype, device=like.device)
    return torch.cartesian_prod(*[levels] * channels).view(-1, channels)


def nonprintability(x: Tensor, palette: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked pixels of the product of distances to the colours (P, C): (N,)."""
    gaps = x[:, None] - palette[None, :, :, None, None]
    squares = gaps.square().sum(2)
    # a root has no slope at zero, where a pixel is printable and has nothing to gain
    far = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
    score = far.prod(1) * mask[:, 0]
    return score.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)


def boxes_around(strength: Tensor, pixels: int, boxes: int) -> Tensor:
    """Lay `boxes` boxes, together at most `pixels` large, where `strength` (N, H, W) is highest.

    One after the other, each in the shape and at the place with the largest sum that is still
    uncovered: a mask (N, 1, H, W) of 0 and 1.
    """
    n, height, width = strength.shape
    mask = torch.zeros_like(strength)
    part = pixels // boxes
    sizes = dict.fromkeys(
        (h, min(width, part // h))
        for shape in SHAPES
        if (h := min(height, max(1, round((part / shape) ** 0.5)), part)) and part // h
    )
    for _ in range(boxes if n else 0):
        left = (strength * (1 - mask))[:, None]
        best = torch.full((n,), -1.0, dtype=strength.dtype, device=strength.device)
        layer = torch.zeros_like(mask)
        for h, w in sizes:
            sums = (avg_pool2d(left, (h, w), 1) * (h * w)).flatten(1)
            most, place = sums.max(1)
            top, start = place // (width - w + 1), place % (width - w + 1)
            rows, columns = (torch.arange(k, device=strength.device) for k in (height, width))
            down = (rows >= top[:, None]) & (rows < top[:, None] + h)
            across = (columns >= start[:, None]) & (columns < start[:, None] + w)
            box = (down[:, :, None] & across[:, None, :]).to(mask)
            layer = torch.where((most > best)[:, None, None], box, layer)
            best = torch.maximum(best, most)
        mask = torch.maximum(mask, layer)
    return mask[:, None]
