"""Single units inside a classifier: which can be steered, and what drives them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier


@dataclass(frozen=True)
class Inner:
    """A layer with weights before the scores: its module, and the modules that run after it."""

    layer: nn.Module
    after: tuple[nn.Module, ...]

    def incoming(self) -> Tensor:
        """Sum the absolute incoming weights of each unit, (U,)."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight.detach().abs().flatten(1).sum(1)


def inner_layer(model: Classifier, depth: int = 1) -> Inner:
    """Find the inner layer of a net that ends in a dense layer: the `depth`-th with weights before that.

    Raises NotApplicable for nets that cannot be told apart into features and a dense head.
    """
    order: list[nn.Module] = []
    leaves = [m for m in model.net.modules() if not list(m.children())]
    handles = [m.register_forward_hook(lambda m, i, o: order.append(m)) for m in leaves]
    try:
        model.predict(torch.zeros(1, *model.shape, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    weighted = [i for i, m in enumerate(order) if isinstance(m, nn.Linear | nn.Conv2d)]
    once = len(set(order)) == len(order) or len({id(order[i]) for i in weighted}) == len(weighted)
    if len(weighted) <= depth or not isinstance(order[weighted[-1]], nn.Linear) or not once:
        raise NotApplicable("the net does not end in a dense layer with features before it")
    place = weighted[-1 - depth]
    return Inner(order[place], tuple(dict.fromkeys(order[place + 1 :])))


@contextmanager
def recorded(inner: Inner) -> Iterator[list[Tensor]]:
    """Record what the layer's units say in each pass, (N, U): means over places for convolutions."""
    said: list[Tensor] = []

    def keep(module: nn.Module, given: object, out: Tensor) -> None:
        said.append(out if out.dim() == 2 else out.flatten(2).mean(2))

    handle = inner.layer.register_forward_hook(keep)
    try:
        yield said
    finally:
        handle.remove()


def values(model: Classifier, inner: Inner, x: Tensor) -> Tensor:
    """Values of the inner units before their nonlinearity, for x (N, *S): (N, U), with a graph."""
    with recorded(inner) as said:
        model.logits(x)
    return said[0]


def steerable(
    model: Classifier, inner: Inner, x: Tensor, count: int, reach: Tensor | None = None,
    target: int | None = None,
) -> Tensor:  # fmt: skip
    """Choose the units that are the easiest to excite among those that x (N, *S) wakes, (count,).

    They are the ones with the largest incoming weights, or, given the pixels `reach` (*S) that may be
    changed, the ones with the largest gradient there. Given a class `target`, ease counts as often as the
    unit speaks for that class. A unit that no input wakes passes nothing on, however large its weights are.
    """
    with torch.no_grad():
        awake = (values(model, inner, x) > 0).any(0)
    if not bool(awake.any()):
        raise NotApplicable("no unit of the inner layer answers to any input")
    ease = inner.incoming() if reach is None else _slopes(model, inner, x, reach)
    if target is not None:
        ease = ease * _votes(model, inner, x, target).clamp(min=0)
    return torch.where(awake, ease, -1.0).topk(min(count, int(awake.sum()))).indices


def _slopes(model: Classifier, inner: Inner, x: Tensor, reach: Tensor) -> Tensor:
    """Sum the absolute mean gradient of each unit over the pixels in reach, (U,)."""
    z = x.detach().requires_grad_()
    with torch.enable_grad():
        said = values(model, inner, z).sum(0)
        grads = [torch.autograd.grad(unit, z, retain_graph=True)[0] for unit in said]
    return torch.stack([(grad.mean(0) * reach).abs().sum() for grad in grads])


def _votes(model: Classifier, inner: Inner, x: Tensor, target: int) -> Tensor:
    """Take the mean gradient of a class's score over the mean score, over the inputs that wake a unit, (U,)."""
    said: list[Tensor] = []
    handle = inner.layer.register_forward_hook(lambda m, i, out: said.append(out))
    z = x.detach().requires_grad_()
    try:
        with torch.enable_grad():
            scores = model.logits(z)
            (grad,) = torch.autograd.grad((scores[:, target] - scores.mean(1)).sum(), said[0])
    finally:
        handle.remove()
    votes = grad.flatten(2).sum(2) if grad.dim() > 2 else grad
    return votes.sum(0) / (votes != 0).sum(0).clamp(min=1)
