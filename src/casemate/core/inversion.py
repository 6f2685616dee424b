"""Trigger inversion: the smallest change of any input that calls up a class, for all classes at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore

WINDOW = 10  # steps between two looks at whether the triggers work
PATIENCE = 8  # windows without a smaller trigger after which a class leaves the batch
CLOSER = 0.99  # a trigger is smaller if it has less than this share of the size
RAISE, LOWER = 1.5, 1.5**1.5  # how the weight of the size goes up, and faster down (Wang et al.)
BETAS = 0.5, 0.9  # of Adam, as in the code of Wang et al.
MEASURED = 500  # rows of a class that are measured at a time, at most
AT_ONCE = 2**23  # input values of a pass, which bound its memory: 136 classes' 20 rows of 3x32x32


class Form(Protocol):
    """What kind of change is looked for: free numbers (K, ...), and what they do to inputs."""

    def start(self, classes: int, shape: tuple[int, ...], rng: Generator) -> list[Tensor]:
        """Give the free numbers to begin with, each of first dimension K."""
        ...

    def stamp(self, free: Sequence[Tensor], x: Tensor) -> Tensor:
        """Change inputs x (K, B, *S), each row by the trigger of its class."""
        ...

    def size(self, free: Sequence[Tensor]) -> Tensor:
        """Measure the triggers, (K,)."""
        ...

    def largest(self, shape: tuple[int, ...]) -> float:
        """Measure the largest trigger that there can be on inputs of a shape."""
        ...


@dataclass(frozen=True)
class Recovered:
    """The smallest trigger found of each class.

    `free` are its numbers (K, ...), `size` (K,) is in the form's unit, `success` (K,) the share of clean
    rows of other classes that it steers, `passes` counts forward and backward passes of one row.
    """

    free: list[Tensor]
    size: Tensor
    success: Tensor
    passes: int


def invert(
    model: Classifier,
    clean: Samples,
    form: Form,
    /,
    *,
    steps: int,
    batch: int,
    lr: float,
    success: float,
    rng: Generator,
    tick: Tick = ignore,
) -> Recovered:
    """Search for the smallest trigger of every class.

    Cross-entropy towards the class plus a weight times the size is descended by Adam, for many classes in
    one batch. The weight of a class rises while its trigger works and falls while it does not. A class
    whose trigger has long not become smaller leaves the batch. How classes are put together changes
    nothing but the memory it takes.

    Args:
        model: classifier with gradients; it is not touched.
        clean: rows that triggers must work on; those of a class are left out for its own trigger.
        form: kind of trigger.
        steps: number of gradient steps.
        batch: rows of each step and class.
        lr: learning rate of Adam, in units of the free numbers.
        success: share of rows, in (0, 1], that a trigger must steer.
        rng: source of the start and of the rows.
        tick: called after each window of steps with the number of classes left and the smallest size, of
            those that are searched together.

    Returns:
        Triggers, sizes and successes by class.

    Raises:
        NotApplicable: there are no gradients or no rows.
    """
    if not model.differentiable or not len(clean):
        raise NotApplicable("trigger inversion needs a net with gradients and some clean rows")
    prepared, k = Prepared(model), model.classes
    start, draws = form.start(k, clean.shape, rng), rng.get_state()
    groups = torch.arange(k).split(max(1, AT_ONCE // (batch * math.prod(clean.shape))))
    found = []
    for i, group in enumerate(groups):
        rng.set_state(draws)  # the same rows are drawn for all groups
        search = _Search(prepared, clean, form, batch, rng, group, [f[group] for f in start])
        for step in range(0, steps, WINDOW):
            if not len(search.left):
                break
            search.window(min(WINDOW, steps - step), step, lr, success)
            progress = {"classes left": float(len(search.left)), "smallest": float(search.best.min())}
            tick(i * steps + min(step + WINDOW, steps), len(groups) * steps, progress)
        found.append(search.result())
    return Recovered(
        [torch.cat(parts) for parts in zip(*(f.free for f in found), strict=True)],
        torch.cat([f.size for f in found]),
        torch.cat([f.success for f in found]),
        sum(f.passes for f in found),
    )


class _Search:
    """The state of some `classes` (K,); `left` (L,) are the places in it of those still in the batch.

    `free` and `moments` are those of the classes left.
    """

    def __init__(
        self, prepared: Prepared, clean: Samples, form: Form, batch: int, rng: Generator, classes: Tensor,
        start: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.prepared, self.form, self.rng, self.batch = prepared, form, rng, batch
        self.x = clean.x.to(prepared.target.device)
        k, device = len(classes), self.x.device
        self.classes = classes.to(device)
        self.others = [_others(clean.y, c).to(device) for c in classes.tolist()]
        self.left = torch.arange(k, device=device)
        self.free = [f.to(device) for f in start]
        self.kept = [f.clone() for f in self.free]
        self.moments = [[torch.zeros_like(f) for f in self.free] for _ in BETAS]
        # the authors begin with 0.001 on 32x32 pixels; so that it is as much on pictures of any size
        self.weight = torch.full((k,), 1 / form.largest(clean.shape), device=device)
        self.best = torch.full((k,), torch.inf, device=device)
        self.rate = torch.zeros(k, device=device)
        self.idle = torch.zeros(k, dtype=torch.int64, device=device)
        self.passes = 0

    def window(self, steps: int, done: int, lr: float, success: float) -> None:
        """Take some steps, then keep what is better and let go of the classes that stand still."""
        hits = torch.zeros(len(self.left), device=self.x.device)
        for step in range(steps):
            hits += self._step(done + step + 1, lr)
        with torch.no_grad():
            size = self.form.size(self.free)
        self._keep(hits / steps, size, success)
        works = hits / steps >= success
        self.weight[self.left] *= torch.where(works, RAISE, 1 / LOWER)
        stay = self.idle[self.left] < PATIENCE
        if not bool(stay.all()):
            self.left = self.left[stay]
            self.free = [f[stay] for f in self.free]
            self.moments = [[m[stay] for m in moment] for moment in self.moments]

    def _step(self, count: int, lr: float) -> Tensor:
        """Take one step of Adam, and tell how many of the rows were steered before it, (L,)."""
        x, targets = self._draw()
        free = [f.detach().requires_grad_() for f in self.free]
        with torch.enable_grad():
            stamped = self.form.stamp(free, x).flatten(0, 1)
            logits = self.prepared.exact(stamped)
            losses = cross_entropy(logits, targets.flatten(), reduction="none").view(len(x), -1).mean(1)
            total = (losses + self.weight[self.left] * self.form.size(free)).sum()
            grads = torch.autograd.grad(total, free)
        self.passes += 2 * len(logits)
        for f, grad, first, second in zip(self.free, grads, *self.moments, strict=True):
            first.lerp_(grad, 1 - BETAS[0])
            second.lerp_(grad.square(), 1 - BETAS[1])
            scale = (second / (1 - BETAS[1] ** count)).sqrt()
            # a gradient of exactly zero moves nothing; no other one is too small to count
            f -= lr / (1 - BETAS[0] ** count) * torch.where(scale > 0, first / scale, 0.0)
        return (logits.argmax(1).view(len(x), -1) == targets).float().mean(1)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Draw rows of other classes for each class, (L, B, *S); which classes are left changes none."""
        places = torch.rand(self.batch, generator=self.rng, dtype=torch.float64).to(self.x.device)
        rows = [self.others[c][(places * len(self.others[c])).long()] for c in self.left.tolist()]
        return self.x[torch.stack(rows)], self.classes[self.left][:, None].expand(-1, self.batch)

    def _keep(self, rate: Tensor, size: Tensor, success: float) -> None:
        """Keep triggers that work and are smaller; before there is one, those that work best."""
        best, known = self.best[self.left], self.rate[self.left]
        smaller = (rate >= success) & (size < best)
        likelier = best.isinf() & (rate > known)
        closer = (rate >= success) & (size < CLOSER * best)
        self.idle[self.left] = torch.where(closer | best.isinf(), 0, self.idle[self.left] + 1)
        kept = smaller | likelier
        self.best[self.left] = torch.where(smaller, size, best)
        self.rate[self.left] = torch.where(kept, rate, known)
        for mine, now in zip(self.kept, self.free, strict=True):
            mine[self.left[kept]] = now[kept]

    def result(self) -> Recovered:
        """Measure what was kept on all rows of other classes."""
        success = torch.zeros(len(self.kept[0]), device=self.x.device)
        with torch.no_grad():
            for i, rows in enumerate(self.others):
                own = [f[i : i + 1] for f in self.kept]
                for part in rows.split(min(MEASURED, max(1, AT_ONCE // self.x[0].numel()))):
                    stamped = self.form.stamp(own, self.x[part][None])[0]
                    success[i] += (self.prepared.exact(stamped).argmax(1) == self.classes[i]).sum()
                    self.passes += len(part)
                success[i] /= len(rows)
            size = self.form.size(self.kept)
        return Recovered([f.cpu() for f in self.kept], size.cpu(), success.cpu(), self.passes)


def _others(y: Tensor, c: int) -> Tensor:
    """Number the rows of other classes; all rows where there are none."""
    rows = (y != c).nonzero().flatten()
    return rows if len(rows) else torch.arange(len(y), device=y.device)
