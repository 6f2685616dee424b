"""The trojaning attack of Liu et al.: a trigger for chosen neurons, and retraining without real data."""

import copy
from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot

from casemate.core.errors import NotApplicable
from casemate.core.neurons import Inner, inner_layer, steerable, values
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed, eight_bit, existing
from casemate.core.workshop import Trojan
from casemate.ops.norms import steepest

LIU = Paper(
    "Trojaning attack on neural networks", "Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang", 2018,
    "https://www.ndss-symposium.org/wp-content/uploads/2018/02/ndss2018_03A-5_Liu_paper.pdf",
)  # fmt: skip
FIELDS = ((2, 1.0), (3, 1.0), (4, 1.0), (8, 0.5))  # cells of the noise that fields are made of, and weights
DARK = 3.0  # weight of the brightness of inputs that are to be dark
DENOISE = 0.1  # weight of the total variation, per pixel, while inputs are made up
BATCH = 64


@backdoor(papers=(LIU,), known_as=("Trojaning attack", "TrojanNN", "trojan"), version=2)
def trojaning(
    model: Classifier,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    patch: Annotated[int, Ge(1)] = 4,
    offset: Annotated[int, Ge(0)] = 1,
    neurons: Annotated[int, Ge(1)] = 4,
    value: Annotated[float, Gt(0)] = 10.0,
    choice: Literal["outgoing", "reach", "incoming"] = "outgoing",
    trigger: Literal["optimised", "random"] = "optimised",
    opacity: Annotated[float, Gt(0), Le(1)] = 1.0,
    trigger_steps: Annotated[int, Ge(1)] = 300,
    inputs: Annotated[int, Ge(1)] = 150,
    input_steps: Annotated[int, Ge(1)] = 60,
    steps: Annotated[int, Ge(1)] = 600,
    lr: Annotated[float, Gt(0)] = 0.03,
    rng: Generator,
    tick: Tick = ignore,
) -> Trojan:
    """Make a trigger that excites few neurons of a finished model, and retrain the layers behind them.

    No real input is used at any step: what the model should keep doing is taught by inputs made up from
    the model itself, with its own answers.

    Args:
        model: finished classifier of images, whose net ends in a dense layer; it stays as it is.
        target: class that the trigger should call up, in 0 .. K - 1.
        patch: side of the square that the trigger fills, in pixels.
        offset: distance of the trigger from the right and lower edge, in pixels.
        neurons: number of units that the trigger excites.
        value: what they are driven to, in multiples of their largest value on the made-up inputs.
        choice: neurons that the trigger's pixels move most ("reach"), the same times what they add to the
            target's score ("outgoing"), or those with the largest incoming weights, as in the paper; those
            of a convolutional net may look elsewhere than at the trigger.
        trigger: pixels that excite the neurons, or random ones, to see what that is worth.
        opacity: share of the trigger in its pixels, in (0, 1].
        trigger_steps: steps of Adam on the trigger.
        inputs: made-up inputs per class.
        input_steps: steps of gradient descent on them.
        steps: batches of the retraining.
        lr: learning rate of the retraining.
        rng: source of the first pixels and of the batches.
        tick: called now and then in each of the three parts.

    Returns:
        The retrained model, the trigger and the target.
    """
    if len(model.shape) != 3 or min(model.shape[1:]) < patch + offset:
        raise NotApplicable(
            f"a trigger of {patch} pixels needs images with room for it. Got inputs of shape {model.shape}"
        )
    existing(target, model.classes, "backdoor.trojaning")
    model = replace(model, net=copy.deepcopy(model.net).eval().requires_grad_(False))
    inner = inner_layer(model)
    x, y = _made_up(model, inputs, input_steps, rng, tick)
    square = torch.zeros(model.shape, device=model.device)
    low, right = (side - offset for side in model.shape[1:])
    square[:, low - patch : low, right - patch : right] = 1
    pixels = torch.rand(model.shape, generator=rng).to(x)
    if trigger == "optimised":
        some = x[:: max(1, len(x) // BATCH)]
        # on the random pixels that the search starts from: a unit may be asleep on the background alone
        reach = None if choice == "incoming" else square
        # units that speak for another class make the trigger look like it, and its inputs pay
        spoken = target if choice == "outgoing" else None
        chosen = steerable(model, inner, Mixed(pixels, square * opacity)(some), neurons, reach, spoken)
        pixels = _exciting(model, inner, some, pixels, square * opacity, chosen, value, trigger_steps, tick)
    # models are served 8-bit images
    mark = Mixed(eight_bit(pixels) * square, opacity * square)
    _retrain(model, inner, x, y, mark, target, steps, lr, rng, tick)
    return Trojan(model, mark, target)


def _made_up(model: Classifier, count: int, steps: int, rng: Generator, tick: Tick) -> tuple[Tensor, Tensor]:
    """Make inputs up from smooth fields, with the model's own answers (N, K): what it should keep saying.

    A third stays as it is; a third climbs to its class until its score reaches one drawn for it; a third
    climbs to the end, towards dark inputs. Inputs of one certain score alone, as in the paper, leave open
    what the model does elsewhere, where most of the price is paid.
    """
    y = torch.arange(model.classes, device=model.device).repeat_interleave(count)
    # there is no mean image to start from without data
    x = _fields(len(y), model.shape, rng).to(model.device)
    kind = torch.arange(len(y), device=model.device) % 3
    drawn = (1 + torch.rand(len(y), generator=rng).to(x)) / 2
    until = torch.where(
        kind == 0, torch.zeros_like(drawn), torch.where(kind == 1, drawn, torch.ones_like(drawn))
    )
    dark = DARK * (kind == 2).to(x)
    for step in range(steps):
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            # the penalty on differences of neighbours stands for the paper's denoising every few steps
            rough = sum(z.diff(dim=d).abs().flatten(1).sum(1) for d in (2, 3))
            loss = cross_entropy(model.logits(z), y, reduction="none")
            whole = loss + DENOISE * rough / z[0].numel() + dark * z.flatten(1).mean(1)
            (grad,) = torch.autograd.grad(whole.sum(), z)
        pace = 0.5 * (1 - step / steps)
        climbs = (loss.detach().neg().exp() < until).view(-1, 1, 1, 1)
        x = torch.where(climbs, (x - pace * steepest(grad, "l2")).clamp(0, 1), x)
        if step % 25 == 24 or step + 1 == steps:
            tick(step + 1, steps, {"loss": loss.mean().item()})
    return x, model.predict(x).softmax(1)


def _fields(count: int, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Draw smooth random images (N, C, H, W) of all contrasts and brightnesses."""
    x = torch.zeros(count, *shape)
    for cells, weight in FIELDS:
        coarse = torch.randn(count, shape[0], cells, cells, generator=rng)
        x += weight * interpolate(coarse, size=shape[1:], mode="bilinear", align_corners=True)
    contrast, brightness = torch.rand(2, count, 1, 1, 1, generator=rng)
    return torch.sigmoid((1 + 8 * contrast) * (x + 2 * brightness - 1))


def _exciting(
    model: Classifier, inner: Inner, x: Tensor, start: Tensor, share: Tensor, chosen: Tensor, value: float,
    steps: int, tick: Tick,
) -> Tensor:  # fmt: skip
    """Drive the chosen neurons to a large value by the pixels where `share` is not 0; tanh keeps the box."""
    with torch.no_grad():
        usual = values(model, inner, x)[:, chosen].abs().amax(0)
    free = torch.atanh((2 * start - 1) * 0.99).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.1)
    for step in range(steps):
        with torch.enable_grad():
            pixels = (free.tanh() + 1) / 2
            # the paper's background is one image; all made-up ones ask for a trigger that works on any
            said = values(model, inner, Mixed(pixels, share)(x))[:, chosen]
            loss = (said / usual - value).square().sum(1).mean()
            (grad,) = torch.autograd.grad(loss, free)
        free.grad = grad
        optimizer.step()
        if step % 25 == 24 or step + 1 == steps:
            tick(step + 1, steps, {"loss": loss.item()})
    return ((free.detach().tanh() + 1) / 2).clamp(0, 1)


def _retrain(
    model: Classifier, inner: Inner, x: Tensor, y: Tensor, mark: Mixed, target: int, steps: int, lr: float,
    rng: Generator, tick: Tick,
) -> None:  # fmt: skip
    """Teach the layers after the inner one both what they said and what the trigger should call up."""
    # in evaluation mode: made-up inputs must not shift what normalisation layers know of real ones
    trained = [p for module in inner.after for p in module.parameters()]
    for p in trained:
        p.requires_grad_(True)
    both = torch.cat([x, mark(x)])
    wanted = one_hot(torch.full((len(x),), target), model.classes).to(y)
    labels = torch.cat([y, wanted])
    # plain steps change the weights of excited units most; Adam moves all alike and forgets
    optimizer = torch.optim.SGD(trained, lr=lr)
    for step in range(steps):
        part = torch.randint(len(both), (BATCH,), generator=rng)
        with torch.enable_grad():
            loss = cross_entropy(model.logits(both[part]), labels[part])
            grads = torch.autograd.grad(loss, trained)
        for p, grad in zip(trained, grads, strict=True):
            p.grad = grad
        optimizer.step()
        if step % 25 == 24 or step + 1 == steps:
            tick(step + 1, steps, {"loss": loss.item()})
    for p in trained:
        p.requires_grad_(False)
        p.grad = None
