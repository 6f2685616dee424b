"""Training a victim: the hot loop of poisoning, privacy and hardening."""

import functools
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.target import Classifier, laid_out, reordered
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import seeded

REPORT_EVERY = 25  # steps between two ticks: reading a loss waits for the device
WARM_UP = 0.3  # share of the steps in which the learning rate rises


class BatchLoss(Protocol):
    """Loss of one training batch: net, x (B, *S), y (B,) -> scalar; defences replace it.

    The net is in training mode. Random numbers come from `rng`; dropout may use torch's own, which
    the recipe has seeded.
    """

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
        """Compute the mean loss of the batch."""


@runtime_checkable
class Scheduled(Protocol):
    """A batch loss that changes in the course of a training."""

    def at(self, progress: float, /) -> BatchLoss:
        """Give the loss at `progress` in [0, 1)."""


class Course(Protocol):
    """A training in several stages, or of several nets, in place of one descent; defences set it.

    It is a frozen dataclass, so that its settings tell recipes apart.
    """

    def __call__(
        self, recipe: "Recipe", net: nn.Module, data: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> None:
        """Train `net` in place on `data`, by variants of `recipe`, which has no course itself."""

    def steps(self, recipe: "Recipe", n: int, /) -> int:
        """Count the optimiser's steps on n rows, for whoever reports progress."""


def cross_entropy(net: nn.Module, x: Tensor, y: Tensor, /, *, rng: Generator) -> Tensor:
    """Mean cross-entropy on the clean batch."""
    return nn.functional.cross_entropy(net(x), y)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a classifier is trained, but its data and its seed.

    `make` builds a fresh net that takes x as it is, in [0, 1]; `name` stands for it in the digest.
    Adam with a one-cycle learning rate up to `lr` and decoupled weight decay; `batch` rows a step;
    `batch_loss` is what is minimised. With `average` in (0, 1) the trained net has the running mean
    of the weights, each step counting `average` times as much as the next. A `course` replaces the one
    descent by stages. To train in worker processes, `make`, `batch_loss` and `course` must be picklable:
    functions of a module, partials of them or frozen dataclasses.
    """

    make: Callable[[], nn.Module]
    name: str
    epochs: int = 5
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.0
    batch_loss: BatchLoss = cross_entropy
    average: float = 0.0
    course: Course | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or not self.lr > 0 or self.weight_decay < 0:
            raise UsageError(
                "A recipe needs epochs >= 1, batch >= 2, lr > 0 and weight_decay >= 0. Got "
                f"epochs={self.epochs}, batch={self.batch}, lr={self.lr}, weight_decay={self.weight_decay}."
            )
        if not 0 <= self.average < 1:
            raise UsageError(f"The 'average' of a recipe must be in [0, 1). Got {self.average}.")

    def __call__(self, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> Classifier:
        """Train a fresh net on `data`: a function of the data and of `rng`, which advances.

        The net comes back in evaluation mode. The global generators are as they were, also when
        training fails. Raises UsageError on fewer than two rows, on a net that does not fit the data,
        and if training diverged.
        """
        if len(data) < 2:
            raise UsageError(f"Training needs at least two rows. Got {len(data)}.")
        with seeded(int(torch.randint(2**62, (), generator=rng)), data.x.device):
            net = self.make().to(data.x.device)
            classes = _classes(net, data)
            self.fit(net, data, rng=rng, tick=tick)
        net.eval().zero_grad(set_to_none=True)
        if not all(bool(p.isfinite().all()) for p in net.parameters()):
            raise UsageError(
                f"Training by '{self.name}' diverged: its weights are not finite. Lower lr={self.lr:g}."
            )
        return Classifier(net, classes, data.shape, device=data.x.device)

    def fit(self, net: nn.Module, data: Samples, /, *, rng: Generator, tick: Tick = ignore) -> None:
        """Train `net` in place from the weights that it has; it is left in training mode."""
        if self.course is None:
            self._descend(net, data, rng, tick)
        else:
            self.course(replace(self, course=None), net, data, rng=rng, tick=tick)

    def _descend(self, net: nn.Module, data: Samples, rng: Generator, tick: Tick) -> None:
        trained: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        if not trained:
            raise UsageError(f"The net of '{self.name}' has no weights to train.")
        order = reordered(net, data.shape)
        optimizer = torch.optim.AdamW(trained, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        rows, y = _laid_out(data.x, order), data.y
        step, total = 0, self.steps(len(data))
        means = [p.detach().clone() for p in trained] if self.average else []
        net.train()
        for _ in range(self.epochs):
            drawn = torch.randperm(len(data), generator=rng).to(y.device)
            for part in drawn.split(_lengths(len(data), self.batch)):
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * one_cycle(step / total)
                batch_loss = self._loss(step / total)
                loss = batch_loss(net, rows(part), y[part], rng=rng)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                step += 1
                if means:
                    # early on the mean of few steps is the better one than mostly the start
                    keep = min(self.average, step / (step + 10))
                    torch._foreach_lerp_(means, trained, 1 - keep)
                if step % REPORT_EVERY == 0 or step == total:
                    tick(step, total, {"loss": loss.item()})
        if means:
            with torch.no_grad():
                torch._foreach_copy_(trained, means)
            _settle(net, rows, self.batch, len(data))
        if order is torch.channels_last:
            net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def _loss(self, progress: float) -> BatchLoss:
        loss = self.batch_loss
        return loss.at(progress) if isinstance(loss, Scheduled) else loss

    def steps(self, n: int) -> int:
        """Count the optimiser's steps on n rows."""
        if self.course is not None:
            return self.course.steps(replace(self, course=None), n)
        return self.epochs * len(_lengths(n, self.batch))

    def digest(self) -> str:
        """Digest name, settings and batch loss, as 64 hexadecimal digits."""
        settings = (
            self.name,
            self.epochs,
            self.batch,
            self.lr,
            self.weight_decay,
            _identity(self.batch_loss),
            *([self.average] if self.average else []),
            *([_identity(self.course)] if self.course is not None else []),
        )
        return hashlib.sha256(repr(settings).encode()).hexdigest()


def _settle(net: nn.Module, rows: Callable[[Tensor], Tensor], batch: int, n: int) -> None:
    """Take batch statistics anew for averaged weights, which the ones from training do not fit."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a plain mean over the batches
    if norms:
        with torch.no_grad():
            for part in torch.arange(n).split(_lengths(n, batch)):
                net(rows(part))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1): cosine up from 1/25, cosine down to 0."""
    if progress < WARM_UP:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress / WARM_UP)) / 2
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def _lengths(n: int, batch: int) -> list[int]:
    """Lengths of the batches of one pass; a last row left alone joins the batch before.

    Batch normalisation cannot train on one row.
    """
    whole, rest = divmod(n, batch)
    lengths = [batch] * whole + [rest] * (rest > 0)
    if rest == 1 and whole:
        lengths[-2:] = [batch + 1]
    return lengths


def _laid_out(x: Tensor, order: torch.memory_format) -> Callable[[Tensor], Tensor]:
    """Make a function that gathers rows of x; images in channels-last order come so without a second copy."""
    if order is not torch.channels_last:
        plain = laid_out(x, order)
        return lambda part: plain.index_select(0, part)
    last = x.permute(0, 2, 3, 1).contiguous()
    return lambda part: last.index_select(0, part).permute(0, 3, 1, 2)


def _classes(net: nn.Module, data: Samples) -> int:
    """Try the net on one row and count its classes."""
    with torch.no_grad():
        out = net.eval()(data.x[:1])
    if not isinstance(out, Tensor) or out.dim() != 2 or out.shape[1] < data.classes:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise UsageError(
            f"The net must return logits (N, K) for K >= {data.classes} classes. Got {got} for one row."
        )
    return int(out.shape[1])


def _identity(value: Any) -> str:
    """Name a function, or an object and its settings, so that equal ones have equal names."""
    if isinstance(value, functools.partial):
        given = [
            *map(_identity, value.args),
            *(f"{k}={_identity(v)}" for k, v in sorted(value.keywords.items())),
        ]
        return f"{_identity(value.func)}({', '.join(given)})"
    if is_dataclass(value) and not isinstance(value, type):
        given = [f"{f.name}={_identity(getattr(value, f.name))}" for f in fields(value)]
        return f"{_identity(type(value))}({', '.join(given)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # the addresses in the text of objects change with every start
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
