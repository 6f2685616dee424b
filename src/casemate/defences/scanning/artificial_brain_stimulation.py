"""ABS: neurons that call up a class by themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, scanning
from casemate.core.scanning import Traces
from casemate.core.stamps import Patches
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed, pictures_only

LIU = Paper(
    "ABS: scanning neural networks for back-doors by artificial brain stimulation",
    "Liu, Lee, Tao, Ma, Aafer, Zhang",
    2019,
    "https://doi.org/10.1145/3319535.3363216",
)
LEVELS = (0.5, 1.0, 1.5, 2.0)  # what a unit is set to, in multiples of the layer's largest value
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
AT_A_TIME = 512  # rows of one pass
OTHERS = 0.2  # weight of what the other units of the layer are changed by
FLOOR = 0.05  # successes this far from 0 and 1 and further are not told apart
TOO_LARGE = 10.0  # weight of what a mask covers beyond its limit, as a share of the limit


@scanning(papers=(LIU,), known_as=("ABS", "artificial brain stimulation", "neuron stimulation"))
def artificial_brain_stimulation(
    model: Classifier,
    clean: Samples,
    /,
    *,
    layers: Annotated[int, Ge(1)] = 2,
    images: Annotated[int, Ge(1)] = 16,
    candidates: Annotated[int, Ge(1)] = 2,
    steps: Annotated[int, Ge(1)] = 60,
    batch: Annotated[int, Ge(1)] = 12,
    lr: Annotated[float, Gt(0)] = 0.1,
    cover: Annotated[float, Gt(0), Le(1)] = 0.1,
    threshold: Annotated[float, Gt(0), Le(1)] = 0.88,
    rng: Generator,
    tick: Tick = ignore,
) -> Traces:
    """Set single neurons to large values, and make triggers for those that lift one class above all others.

    A backdoor is often kept by few units that call up the class whatever else is seen. Each unit of the
    last inner layers is stimulated while clean rows pass; for the units that lift a class most, on every
    row, a patch of limited size is made that excites them. If such a patch steers more than `threshold`
    of the rows of other classes, the class is called backdoored.

    Args:
        model: classifier of pictures (C, H, W) that may have a backdoor; it stays as it is.
        clean: rows that are known to be clean, some hundred.
        layers: inner layers with weights that are stimulated, counted from the last.
        images: rows that every unit is stimulated on.
        candidates: units of each layer and class that triggers are made for.
        steps: gradient steps on the triggers.
        batch: rows of each trigger and step.
        lr: learning rate of Adam, in the units of atanh.
        cover: share of the picture that a trigger may cover, in (0, 1].
        threshold: share of the rows, in (0, 1], that a trigger steers only where there is a backdoor.
        rng: source of the rows and of the first patches.
        tick: called after each layer's stimulation and now and then while triggers are made.

    Returns:
        The best trigger of each class, its size in pixels; the evidence is the logarithm of the
        odds of its success, above the median of the classes.

    Raises:
        NotApplicable: the inputs are no pictures, the net has no gradients or no inner layer, or there are
            no rows.
    """
    pictures_only(model.shape, "ABS")
    if not model.differentiable or not len(clean):
        raise NotApplicable("ABS needs a net with gradients and some clean rows")
    prepared = Prepared(model)
    x, y = clean.x.to(model.device), clean.y.to(model.device)
    some = x[torch.randperm(len(x), generator=rng)[:images].to(x.device)]
    k, passes, found = model.classes, 0, []
    inner = _inner(prepared, some[:1], layers)
    for place, layer in enumerate(inner):
        lifts, _, spent = _lifts(prepared, layer, some)
        chosen = lifts.topk(min(candidates, len(lifts)), dim=0).indices.T.flatten()  # (K * candidates,)
        classes = torch.arange(k, device=x.device).repeat_interleave(len(chosen) // k)
        free, used = _triggers(
            prepared, layer, chosen, some, _rows(y, classes), x, steps, batch, lr, cover, rng, tick,
            (place, len(inner)),
        )  # fmt: skip
        rate, size, measured = _judged(prepared, free, x, y, classes)
        passes += spent + used + measured
        found += [
            (float(rate[i]), float(size[i]), int(c), [f[i] for f in free]) for i, c in enumerate(classes)
        ]
    return _best(found, k, threshold, passes)


def _best(
    found: list[tuple[float, float, int, list[Tensor]]], k: int, threshold: float, passes: int
) -> Traces:
    """Keep the most successful trigger of each class."""
    best = [max((each for each in found if each[2] == c), key=lambda each: each[0]) for c in range(k)]
    success, size = (torch.tensor([each[i] for each in best]) for i in (0, 1))
    parts = [Patches().parts(each[3]) for each in best]
    triggers = tuple(Mixed(pattern, mask) for mask, pattern in parts)
    odds = torch.logit(success.clamp(FLOOR, 1 - FLOOR))
    evidence = odds - torch.quantile(odds, 0.5)
    return Traces(evidence, success > threshold, size, success, triggers, "pixels", passes)


def _inner(prepared: Prepared, x: Tensor, count: int) -> list[nn.Module]:
    """Find the layers with weights that run last, but for the one that gives the scores."""
    order: list[nn.Module] = []
    handles = [
        m.register_forward_hook(lambda m, i, o: order.append(m))
        for m in prepared.net.modules()
        if isinstance(m, LAYERS)
    ]
    try:
        prepared.quick(x)
    finally:
        for handle in handles:
            handle.remove()
    # a layer that runs several times counts where it runs last
    layers = list(dict.fromkeys(reversed(order)))
    if len(layers) < 2:
        raise NotApplicable("the net has no inner layer with weights to stimulate")
    return layers[1 : count + 1]


@contextmanager
def _recorded(layer: nn.Module) -> Iterator[list[Tensor]]:
    said: list[Tensor] = []
    handle = layer.register_forward_hook(lambda m, i, o: said.append(o))
    try:
        yield said
    finally:
        handle.remove()


def _lifts(prepared: Prepared, layer: nn.Module, x: Tensor) -> tuple[Tensor, float, int]:
    """Stimulate each unit: how far it lifts each class above the others on every row, (U, K).

    Also the largest value in the layer on clean rows, which stimulation is measured in, and the passes.
    """
    with _recorded(layer) as said:
        before = _margins(prepared.quick(x))
    units = said[-1].shape[_axis(layer)]
    peak = float(said[-1].abs().max()) or 1.0
    lifts = []
    for part in torch.arange(units, device=x.device).split(max(1, AT_A_TIME // len(x))):
        rows = x.repeat(len(part), *[1] * (x.dim() - 1))
        levels = []
        for level in LEVELS:
            with _stimulated(layer, part.repeat_interleave(len(x)), level * peak):
                margins = _margins(prepared.quick(rows)).view(len(part), len(x), -1)
            # only what happens on every row: a feature of clean pictures lifts a class on some
            levels.append((margins - before).amin(1))
        lifts.append(torch.stack(levels).amax(0))
    return torch.cat(lifts), peak, len(x) * (1 + units * len(LEVELS))


@contextmanager
def _stimulated(layer: nn.Module, units: Tensor, value: float) -> Iterator[None]:
    """Set one unit of each row to a value, in all its places."""

    def set_(module: nn.Module, given: object, out: Tensor) -> Tensor:
        changed = out.clone().movedim(_axis(layer), 1)  # a view: units stand second in it
        changed[torch.arange(len(out), device=out.device), units] = value
        return changed.movedim(1, _axis(layer))

    handle = layer.register_forward_hook(set_)
    try:
        yield
    finally:
        handle.remove()


def _margins(logits: Tensor) -> Tensor:
    """Subtract from each logit (N, K) the largest of the others."""
    top = logits.topk(2, dim=1).values
    return logits - torch.where(logits == top[:, :1], top[:, 1:], top[:, :1])


def _rows(y: Tensor, classes: Tensor) -> list[Tensor]:
    """Number the rows that each trigger is made on: those of other classes, or all."""
    found = []
    for c in classes.tolist():
        rows = (y != c).nonzero().flatten()
        found.append(rows if len(rows) else torch.arange(len(y), device=y.device))
    return found


def _triggers(
    prepared: Prepared, layer: nn.Module, units: Tensor, some: Tensor, others: list[Tensor], x: Tensor,
    steps: int, batch: int, lr: float, cover: float, rng: Generator, tick: Tick, place: tuple[int, int],
) -> tuple[list[Tensor], int]:  # fmt: skip
    """Make a patch for each unit (T,) that excites it and leaves the rest of its layer alone."""
    form = Patches()
    free = [f.to(x.device) for f in form.start(len(units), tuple(x.shape[1:]), rng)]
    # from masks that are as large as they may be, for far larger ones fall through the limit
    free[0] = torch.atanh(1.9 * (cover * free[0].sigmoid()).clamp(max=1) - 0.95)
    free = [f.requires_grad_() for f in free]
    optimizer = torch.optim.Adam(free, lr=lr)
    limit = cover * form.largest(tuple(x.shape[1:]))
    own = torch.arange(len(units), device=x.device)
    with torch.no_grad(), _recorded(layer) as said:
        prepared.exact(some)
        usual = _units(layer, said[-1]).mean(0)
        scale = float(_units(layer, said[-1]).abs().mean()) or 1.0
    for step in range(steps):
        places = torch.rand(batch, generator=rng, dtype=torch.float64).to(x.device)
        rows = torch.stack([own_rows[(places * len(own_rows)).long()] for own_rows in others])
        with torch.enable_grad(), _recorded(layer) as said:
            prepared.exact(form.stamp(free, x[rows]).flatten(0, 1))
            values = _units(layer, said[-1]).view(len(units), batch, -1).mean(1)
            excited = values[own, units] / scale
            disturbed = (values - usual).abs().mean(1) / scale
            excess = (form.size(free) / limit - 1).clamp(min=0)
            loss = (OTHERS * disturbed - excited + TOO_LARGE * excess).sum()
            grads = torch.autograd.grad(loss, free)
        for f, grad in zip(free, grads, strict=True):
            f.grad = grad
        optimizer.step()
        if step % 10 == 9 or step + 1 == steps:
            tick(place[0] * steps + step + 1, place[1] * steps, {"excitement": excited.mean().item()})
    return [f.detach() for f in free], len(some) + steps * batch * len(units) * 2


def _axis(layer: nn.Module) -> int:
    """Say where a layer's output has its units: dense layers put them last, convolutions second."""
    return -1 if isinstance(layer, nn.Linear) else 1


def _units(layer: nn.Module, out: Tensor) -> Tensor:
    """Give what units say, (N, U): the mean over all places where they stand several times."""
    out = out.movedim(_axis(layer), 1)
    return out.flatten(2).mean(2) if out.dim() > 2 else out


def _judged(
    prepared: Prepared, free: list[Tensor], x: Tensor, y: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Measure which share of all rows of other classes each trigger steers, (T,), and its size, (T,)."""
    form, passes, rates = Patches(), 0, []
    with torch.no_grad():
        for i, (c, rows) in enumerate(zip(classes.tolist(), _rows(y, classes), strict=True)):
            own = [f[i : i + 1] for f in free]
            logits = torch.cat(
                [prepared.exact(form.stamp(own, x[part][None])[0]) for part in rows.split(AT_A_TIME)]
            )
            rates.append((logits.argmax(1) == c).float().mean())
            passes += len(rows)
        return torch.stack(rates), form.size(free), passes
