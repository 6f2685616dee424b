"""Fine-tuning with sharpness-aware minimisation."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import one_cycle
from casemate.core.registry import Paper, repair
from casemate.core.target import Classifier, laid_out, reordered
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import seeded
from casemate.ops.shifts import shifted

ZHU = Paper(
    "Enhancing fine-tuning based backdoor defense with sharpness-aware minimization",
    "Zhu, Wei, Shen, Fan, Wu",
    2023,
    "https://arxiv.org/abs/2304.11823",
)
BATCH = 32  # 256 in the paper, of ten times as many clean rows; 64 with 400 and 1,200 steps left 46 and 30% misled


@repair(papers=(ZHU,), known_as=("FT-SAM", "sharpness-aware fine-tuning"))
def ft_sam(
    model: Classifier,
    clean: Samples,
    /,
    *,
    rho: Annotated[float, Ge(0)] = 4.0,
    epochs: Annotated[int, Ge(1)] = 250,
    kept: Annotated[float, Ge(0), Le(1)] = 0.8,
    shift: Annotated[int, Ge(0)] = 2,
    lr: Annotated[float, Gt(0)] = 0.01,
    rng: Generator,
    tick: Tick = ignore,
) -> Classifier:
    """Fine-tune on clean data so that the loss stays low however weights move in proportion to their size.

    Plain fine-tuning leaves the large weights of backdoored neurons as they are: on clean data the loss is
    low there already. Here each step descends by the gradient at the worst weights nearby, w + rho T^2 g /
    ||T g|| for the gradient g and T = diag|w|, the maximiser of the linearised loss over ||T^-1 e|| <= rho.
    Large weights move the most, so that training makes them small.

    The paper learns labels; some hundred rows alone would cost accuracy, so that most of what is learnt here
    is what the model itself says of clean rows (`kept`). A larger `rho` removes more and costs more.

    Args:
        model: classifier to be mended; it stays as it is.
        clean: data that the defender trusts, some hundred rows.
        rho: l2 norm of the changes of all weights, each as a share of its weight; 0 is plain fine-tuning.
        epochs: passes over `clean`.
        kept: share of the given model's own probabilities in what is learnt, in [0, 1]; the rest are labels.
        shift: pixels by which images are moved at random, at most; other inputs stay.
        lr: peak learning rate (Adam).
        rng: source of the order of the rows, shifts and dropout.
        tick: called after each pass with the loss at the worst weights.

    Returns:
        The mended classifier, a copy.

    Raises:
        NotApplicable: the model has no gradients or no weights, or there are fewer than two rows.
        UsageError: training diverged.
    """
    if not model.differentiable or not any(True for _ in model.net.parameters()) or len(clean) < 2:
        raise NotApplicable("FT-SAM needs a net with gradients and weights, and at least two clean rows")
    net = copy.deepcopy(model.net).train().requires_grad_(True)
    net.zero_grad(set_to_none=True)
    student, weights = replace(model, net=net), [p for p in net.parameters() if p.is_floating_point()]
    # the paper's SGD (0.01, momentum 0.9) left more of a backdoor for the same accuracy
    optimizer = torch.optim.Adam(weights, lr=lr)
    moves, order = shift if clean.x.dim() == 4 else 0, reordered(net, clean.shape)
    with seeded(int(torch.randint(2**62, (), generator=rng)), clean.x.device):
        for epoch in range(epochs):
            drawn = torch.randperm(len(clean), generator=rng).to(clean.y.device)
            # batch normalisation cannot train on one row, which parts of equal length never are
            parts = drawn.tensor_split(-(-len(clean) // BATCH))
            for i, rows in enumerate(parts):
                for group in optimizer.param_groups:
                    group["lr"] = lr * one_cycle((epoch + i / len(parts)) / epochs)
                x = shifted(clean.x[rows], moves, rng) if moves else clean.x[rows]
                x = laid_out(x, order)
                known = kept * model.predict(x).softmax(1)
                aims = known + (1 - kept) * F.one_hot(clean.y[rows], known.shape[1])
                loss = sharp_gradient(student, weights, x, aims, rho)
                optimizer.step()
            tick(epoch + 1, epochs, {"loss": float(loss)})
    net.eval().zero_grad(set_to_none=True)
    if not all(bool(w.isfinite().all()) for w in weights):
        raise UsageError(f"FT-SAM diverged: its weights are not finite. Lower rho={rho:g} or lr={lr:g}.")
    if order is torch.channels_last:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for weight, own in zip(net.parameters(), model.net.parameters(), strict=True):
        weight.requires_grad_(own.requires_grad)
    return student


def sharp_gradient(
    model: Classifier, weights: Sequence[Tensor], x: Tensor, aims: Tensor, rho: float
) -> Tensor:
    """Set the gradients of weights to those of the loss at the worst weights nearby; the weights stay.

    Args:
        model: classifier whose net is in training mode.
        weights: its parameters, of any shapes.
        x: rows (B, *S).
        aims: probabilities (B, K) that are to be learnt.
        rho: l2 norm of all changes, each as a share of its weight.

    Returns:
        The loss there, a scalar in nats.
    """
    with torch.enable_grad():
        loss = F.cross_entropy(model.logits(x), aims)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
    there = worst(weights, grads, rho)
    with _moved(weights, there), _blind(model.net), torch.enable_grad():
        loss = F.cross_entropy(model.logits(x), aims)
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad
    return loss.detach()


def worst(weights: Sequence[Tensor], grads: Sequence[Tensor | None], rho: float) -> list[Tensor]:
    """Maximise the linearised loss over changes e of all weights with ||e / w|| <= rho, and add the maximiser.

    That is rho w^2 g / ||w g||, value by value, with one norm over all weights.
    """
    scaled = [
        torch.zeros_like(w) if g is None else w.detach() * g for w, g in zip(weights, grads, strict=True)
    ]
    peak = torch.stack([s.abs().max() for s in scaled if s.numel()]).max()
    if not peak > 0:
        return [w.detach().clone() for w in weights]
    # by the largest value first: squares of small gradients underflow
    scaled = [s / peak for s in scaled]
    norm = torch.stack([s.norm() for s in scaled]).norm()
    return [w.detach() * (1 + rho * s / norm) for w, s in zip(weights, scaled, strict=True)]


@contextmanager
def _moved(weights: Sequence[Tensor], there: Sequence[Tensor]) -> Iterator[None]:
    """Put weights elsewhere for the time being."""
    here = [w.detach().clone() for w in weights]
    try:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), list(there))
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(weights), here)


@contextmanager
def _blind(net: nn.Module) -> Iterator[None]:
    """Let normalisation use batches and remember nothing: running statistics are those of the weights themselves."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
