"""Interval bound propagation."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe, cross_entropy
from casemate.core.registry import Paper, training
from casemate.defences.training.inner import evaluating

GOWAL = Paper(
    "On the effectiveness of interval bound propagation for training verifiably robust models",
    "Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli",
    2018,
    "https://arxiv.org/abs/1810.12715",
)
Box = tuple[Tensor, Tensor]  # lowest and highest values of a layer's output


@training(papers=(GOWAL,), known_as=("IBP", "interval bound propagation", "interval-bound training"))
def interval(
    recipe: Recipe,
    /,
    *,
    eps: Annotated[float, Gt(0)] = 8 / 255,
    kappa: Annotated[float, Ge(0), Le(1)] = 0.5,
    warm_up: Annotated[float, Ge(0), Le(1)] = 0.5,
) -> Recipe:
    """Train on bounds of what any change within a linf ball can do, so that robustness can be proven.

    The loss is kappa * CE(f(x), y) + (1 - kappa) * CE(z, y), where z are the worst logits that the
    interval around the input allows. Radius and weight grow over the warm-up: the radius from 0 to
    `eps`, the share of the worst case from 0 to 1 - kappa. `certified` tells afterwards for which
    inputs no change within the ball alters the decision.

    Args:
        recipe: how the model is trained; its loss must be plain cross-entropy, which is replaced. The
            net must be made of the layers that `bounds` knows.
        eps: radius of the linf ball, in units of `x`.
        kappa: share of clean cross-entropy in the loss at the end.
        warm_up: share of the training in which radius and weight grow.

    Returns:
        The recipe with the loss on bounds.

    Raises:
        UsageError: another defence has already replaced the recipe's loss.
    """
    if recipe.batch_loss is not cross_entropy:
        raise UsageError(
            "Interval training replaces the loss of a recipe, which must be cross_entropy. Got another loss."
        )
    return replace(recipe, batch_loss=Bounded(eps, kappa, warm_up))


@dataclass(frozen=True)
class Bounded:
    """Cross-entropy, clean and at the worst logits that intervals allow."""

    eps: float
    kappa: float
    warm_up: float = 0.0

    def at(self, progress: float, /) -> "Bounded":
        """Give the loss in the course of the training: radius and weight grow in the warm-up."""
        grown = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        return Bounded(grown * self.eps, 1 - grown * (1 - self.kappa))

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the loss of the batch."""
        clean = F.cross_entropy(net(x), y)
        if self.kappa == 1:
            return clean
        # bounds are those of the net as it will serve: running statistics, nothing dropped
        with evaluating(net):
            worst = worst_logits(bounds(net, ball(x, self.eps)), y)
        return self.kappa * clean + (1 - self.kappa) * F.cross_entropy(worst, y)


def ball(x: Tensor, eps: float) -> Box:
    """Box of all inputs within linf distance `eps` of x (N, *S) and in [0, 1]."""
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def worst_logits(box: Box, y: Tensor) -> Tensor:
    """Lowest logit of each row's own class and highest of the others, (N, K)."""
    low, high = box
    return torch.where(F.one_hot(y, low.shape[1]).bool(), low, high)


def certified(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Tell for which inputs x (N, *S) no change within linf `eps` can take the decision from y, (N,) bool.

    Sound up to the rounding of float32 sums, which a relative margin of 1e-5 covers.
    """
    with torch.no_grad():
        worst = worst_logits(bounds(net, ball(x, eps)), y)
    own = worst.gather(1, y[:, None]).squeeze(1)
    others = worst.scatter(1, y[:, None], -torch.inf).amax(1)
    return own - others > 1e-5 * worst.abs().amax(1)


def bounds(net: nn.Module, box: Box) -> Box:
    """Carry a box of inputs through a net: lowest and highest of each output.

    Raises NotApplicable at the first layer for which there is no rule.
    """
    low, high = box
    match net:
        case nn.Sequential():
            for layer in net:
                low, high = bounds(layer, (low, high))
            return low, high
        case nn.Linear() | nn.Conv2d():
            return _linear(net, low, high)
        case nn.ReLU() | nn.LeakyReLU() | nn.Tanh() | nn.Sigmoid() | nn.MaxPool2d() | nn.AdaptiveMaxPool2d():
            return net(low), net(high)  # none of them falls where its input rises
        case nn.AvgPool2d() | nn.AdaptiveAvgPool2d() | nn.Flatten() | nn.Identity():
            return net(low), net(high)
        case nn.Dropout() if not net.training:
            return low, high
        case nn.BatchNorm1d() | nn.BatchNorm2d() if not net.training:
            a, b = net(low), net(high)
            return torch.minimum(a, b), torch.maximum(a, b)  # a negative scale turns them round
    raise NotApplicable(
        f"interval bounds know no rule for a layer {type(net).__name__}"
        + (" in training mode" if isinstance(net, nn.Dropout | nn.BatchNorm1d | nn.BatchNorm2d) else "")
    )


def _linear(layer: nn.Linear | nn.Conv2d, low: Tensor, high: Tensor) -> Box:
    """Centre through the layer, radius through the absolute weights."""
    centre, radius = layer((low + high) / 2), (high - low) / 2
    weight = layer.weight.abs()
    if isinstance(layer, nn.Linear):
        spread = F.linear(radius, weight)
    else:
        # zeros stand at the edge for sure: their radius is zero, as this padding has it
        spread = F.conv2d(radius, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        if layer.padding_mode != "zeros":
            raise NotApplicable(f"interval bounds know no padding mode '{layer.padding_mode}'")
    return centre - spread, centre + spread
