"""Fine-pruning."""

import copy
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Paper, repair
from casemate.core.shown import AsShown
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore

LIU = Paper(
    "Fine-pruning: defending against backdooring attacks on deep neural networks",
    "Liu, Dolan-Gavitt, Garg",
    2018,
    "https://arxiv.org/abs/1805.12185",
)
LEVELS = 64  # pruning goes forward by a 64th of the units, but at least by one
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@repair(papers=(LIU,), known_as=("fine-pruning", "pruning defence"))
def fine_pruning(
    model: Classifier,
    clean: Samples,
    /,
    *,
    unit: Literal["neuron", "channel"] = "neuron",
    drop: Annotated[float, Ge(0), Le(1)] = 0.04,
    epochs: Annotated[int, Ge(0)] = 10,
    lr: Annotated[float, Gt(0)] = 3e-4,
    rng: Generator,
    tick: Tick = ignore,
) -> Classifier:
    """Silence what sleeps on clean data in the last convolution, then train a little on clean data.

    A backdoor lives in units that clean data leave at rest. They are pruned in the order of their
    mean activation on `clean` until the accuracy there has fallen by `drop`; the last step before
    that is kept. What of the backdoor is mixed with useful units is then trained away, with the
    pruned units silent for good.

    A small net has no channels to spare: its triggers are told apart by channel and place. Hence the
    default prunes single neurons, as the paper words it; a channel at a time is usual in code for
    large nets. What of a trigger lies where clean images are busy as well is not found that way, so
    the backdoor may be weakened only.

    Args:
        model: classifier to be mended; it stays as it is.
        clean: data that the defender trusts, some hundred rows.
        unit: what is pruned at a time: a neuron (one channel at one place) or a whole channel.
        drop: accuracy on `clean` that pruning may cost before training, as a share in [0, 1].
        epochs: passes of training over `clean`; 0 leaves it out.
        lr: peak learning rate of that training (Adam).
        rng: source of the order of the rows.
        tick: called after each step of that training with the loss.

    Returns:
        The mended classifier, a copy.

    Raises:
        NotApplicable: the net has no convolution or no gradients, or there are fewer than two rows.
    """
    if not model.differentiable or len(clean) < 2:
        raise NotApplicable("fine-pruning needs a net with gradients and at least two clean rows")
    net = copy.deepcopy(model.net).eval()
    net.zero_grad(set_to_none=True)
    name, activity = _activity(replace(model, net=net), clean.x)
    net.set_submodule(name, Pruned(net.get_submodule(name), torch.ones_like(activity)))
    _prune(replace(model, net=net), name, _ranks(activity, unit), clean, drop)
    if epochs == 0:
        return replace(model, net=net)
    how = Recipe(
        partial(copy.deepcopy, net), "fine-tuning", epochs, batch=32, lr=lr, batch_loss=AsShown(model)
    )
    return replace(model, net=how(clean, rng=rng, tick=tick).net)


class Pruned(nn.Module):
    """A convolution some of whose outputs are silenced by `mask`, of ones and zeros.

    A normalisation behind it turns their zero into another constant, which tells as little.
    """

    mask: Tensor

    def __init__(self, layer: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, *places) and silence."""
        out: Tensor = self.layer(x) * self.mask
        return out


def _activity(model: Classifier, x: Tensor) -> tuple[str, Tensor]:
    """Name the convolution that runs last, and the mean activation of its outputs over x (N, *S).

    What follows it value by value, such as normalisation and ReLU, belongs to the activation; a
    ReLU that is no module of its own is made up for by the positive part.
    """
    last: list[tuple[str, Tensor]] = []
    names = {layer: name for name, layer in model.net.named_modules() if not list(layer.children())}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, CONVOLUTIONS):
            last[:] = [(names[layer], output)]
        elif last and isinstance(output, Tensor) and output.shape == last[0][1].shape:
            last[:] = [(last[0][0], output)]

    hooks = [layer.register_forward_hook(note) for layer in names]
    total, name = torch.zeros(()), ""
    for part in x.split(250):
        model.predict(part)
        if not last:
            raise NotApplicable("the net has no convolution to prune")
        name, output = last[0]
        total = total + output.clamp(min=0).sum(0)
    for hook in hooks:
        hook.remove()
    return name, total / len(x)


def _ranks(activity: Tensor, unit: Literal["neuron", "channel"]) -> Tensor:
    """Number the units of `activity` (C, *places) from the least active, 0, upwards, (C, *places)."""
    match unit:
        case "neuron":
            return activity.flatten().argsort(stable=True).argsort().view_as(activity)
        case "channel":
            order = activity.flatten(1).mean(1).argsort(stable=True).argsort()
            return order.view(-1, *[1] * (activity.dim() - 1)).expand_as(activity)
    assert_never(unit)


def _prune(model: Classifier, name: str, ranks: Tensor, clean: Samples, drop: float) -> None:
    """Silence units rank by rank while the accuracy on `clean` allows it."""
    layer = model.net.get_submodule(name)
    assert isinstance(layer, Pruned)
    least, units = _accuracy(model, clean) - drop, int(ranks.max()) + 1
    step = max(1, units // LEVELS)
    for count in range(step, units, step):
        before = layer.mask.clone()
        layer.mask.copy_(ranks >= count)
        if _accuracy(model, clean) < least:
            layer.mask.copy_(before)
            return


def _accuracy(model: Classifier, data: Samples) -> float:
    return float((model.predict(data.x).argmax(1) == data.y).double().mean())
