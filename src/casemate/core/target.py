"""The model under attack, and the oracles through which attacks see it.

An attack's access is the type of its first parameter: labels, scores or gradients. An oracle
counts, per row, the forward and backward passes spent, and refuses more queries than allowed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor, nn

from casemate.core.errors import QueryLimitReached, UsageError
from casemate.core.pooling import pool_first
from casemate.core.thin import thin
from casemate.core.threat import Clearly, Goal, Loss
from casemate.ops.rng import seeded

if TYPE_CHECKING:
    from casemate.core.adaptive import Draws


@dataclass(frozen=True)
class Classifier:
    """A classifier of inputs x (N, *S) in [0, 1]; normalisation is declared here, once.

    The wrapped `net` sees `(low + (high - low) * x - mean) / std`, per channel. `shape` is S.
    `outputs` says what the net returns: "logits", "probabilities", whose logarithm is taken, or
    "labels", as 1 for the label and 0 for the others.
    `differentiable` is False where only the net's answers can be had, not its gradients.
    """

    net: nn.Module
    classes: int
    shape: tuple[int, ...]
    bounds: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    outputs: str = "logits"
    differentiable: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def logits(self, x: Tensor) -> Tensor:
        """Classify x (N, *S) with the net as it stands, (N, K)."""
        return _forward(self, self.net, x)

    def predict(self, x: Tensor, batch: int = 250) -> Tensor:
        """Classify x (N, *S) in evaluation mode and float32 precision, without a graph, (N, K).

        The net's modes are put back afterwards, also when it fails.
        """
        modes = {m: m.training for m in self.net.modules()}
        self.net.eval()
        try:
            with torch.no_grad():
                parts = [self.logits(part.to(self.device)).to(x.device) for part in x.split(batch)]
        finally:
            for module, mode in modes.items():
                module.training = mode
        return torch.cat(parts) if parts else x.new_zeros(0, self.classes)


def _forward(target: Classifier, net: nn.Module, x: Tensor) -> Tensor:
    low, high = target.bounds
    z = x if (low, high) == (0.0, 1.0) else low + (high - low) * x
    if target.mean:
        stats = [torch.tensor(s, dtype=z.dtype, device=z.device) for s in (target.mean, target.std)]
        mean, std = (s.view(1, -1, *[1] * (z.dim() - 2)) for s in stats)
        z = (z - mean) / std
    out: Tensor = net(z)
    match target.outputs:
        case "probabilities":
            return out.clamp(min=torch.finfo(out.dtype).tiny).log()
        case _:
            return out


class Pass(NamedTuple):
    """One forward and backward pass: logits (N, K), losses (N,), input gradient (N, *S)."""

    logits: Tensor
    loss: Tensor
    grad: Tensor


class Prepared:
    """A private copy of a target's net, laid out for speed and never trained.

    The user's net is not touched: the copy is in evaluation mode, its parameters are constant and
    its convolutions are in channels-last order, if the net works so (`order`). `fast` may hold a
    compiled forward (no graph) and `cheap` a copy in bfloat16 for gradients; both are optional and
    checked by whoever builds them.
    Gradients may go through another net with the same answers (`detour`) and be averaged over
    `draws` of the target's randomness: see `core.adaptive`.
    """

    def __init__(self, target: Classifier) -> None:
        self.target = target
        net = copy.deepcopy(target.net).to(target.device).eval().requires_grad_(False)
        self.order = order_for(net, target.shape)
        self.net = quickened(net, self.order)
        self.fast: Callable[[Tensor], Tensor] | None = None
        self.cheap: nn.Module | None = None
        self.detour: nn.Module | None = None
        self.draws: Draws | None = None

    def precise(self) -> "Prepared":
        """Give the same target without its bfloat16 copy, for methods that need exact gradients."""
        if self.cheap is None:
            return self
        other = copy.copy(self)
        other.cheap = None
        return other

    def exact(self, x: Tensor) -> Tensor:
        """Logits of x in x's own precision, with a graph if x asks for one."""
        return _forward(self.target, self.net, laid_out(x, self.order))

    def quick(self, x: Tensor) -> Tensor:
        """Logits of x without a graph, by the compiled forward where there is one; means over the draws."""
        with torch.no_grad():
            if self.draws is not None:
                return torch.stack(self.each(self.exact, x)).mean(0)
            return self.exact(x) if self.fast is None else self.fast(x)

    def each(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        """Logits of x in each of the draws; in one where the target is not drawn from."""
        if self.draws is None:
            return [forward(x)]
        found = []
        for _ in range(self.draws.count):
            with self.draws.draw():
                found.append(forward(x))
        return found

    @property
    def passes(self) -> int:
        """Passes that one question costs: the number of draws."""
        return 1 if self.draws is None else self.draws.count

    def steering(self, x: Tensor) -> Tensor:
        """Logits of x with a graph for gradients, in bfloat16 or past some layers where that was asked for."""
        if self.detour is not None:
            return _forward(self.target, self.detour, laid_out(x, self.order))
        if self.cheap is None:
            return self.exact(x)
        return _forward(self.target, self.cheap, laid_out(x.bfloat16(), self.order)).to(x.dtype)


def quickened(net: nn.Module, order: torch.memory_format) -> nn.Module:
    """Lay out a private net with constant weights for speed, in place: the same answers up to rounding."""
    fast = thin(pool_first(net))
    if order is torch.channels_last:
        fast.to(memory_format=order)  # type: ignore[call-overload]
    return fast


def laid_out(x: Tensor, order: torch.memory_format) -> Tensor:
    """Give images (N, C, H, W) in an order; other inputs as they are."""
    if x.dim() != 4:
        return x
    if order is torch.contiguous_format:
        # strides of one channel may pass for both orders, and convolutions take them for channels-last
        return x.reshape(-1).view(x.shape)
    return x.contiguous(memory_format=order)


def order_for(net: nn.Module, shape: tuple[int, ...]) -> torch.memory_format:
    """Find the order that a net's convolutions are fastest in, among those in which it answers inputs of this shape.

    Channels-last is the faster one, but a net that views the values of a row as one line (`x.view(len(x), -1)`)
    does not work so. It is tried on a copy, and torch's global generators are left alone.
    """
    kernel = next((p for p in net.parameters() if p.dim() == 4), None)
    if kernel is None or len(shape) != 3:
        return torch.contiguous_format
    # going back would not do: strides of one channel mean either order, and stay as they are
    trial = copy.deepcopy(net).eval()
    trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # two rows: a single one may be viewed in any order with another
    x = torch.zeros(2, *shape, dtype=kernel.dtype, device=kernel.device)
    try:
        with seeded(0, kernel.device), torch.no_grad():
            trial(x.contiguous(memory_format=torch.channels_last))
    except Exception:  # whatever a foreign net refuses: its own order is safe, and real inputs raise again
        return torch.contiguous_format
    return torch.channels_last


def reordered(net: nn.Module, shape: tuple[int, ...]) -> torch.memory_format:
    """Put a net's weights in the order found for it, in place, and tell which."""
    order = order_for(net, shape)
    if order is torch.channels_last:
        net.to(memory_format=order)  # type: ignore[call-overload]
    return order


def _linked(logits: Tensor, x: Tensor) -> Tensor:
    """Give logits that hang on no input a gradient of zero, which is what such a target has."""
    if logits.requires_grad or not (x.requires_grad and torch.is_grad_enabled()):
        return logits
    return logits + 0 * x.flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Ledger:
    """Passes spent on each row: `queries` counts forwards, `gradients` backwards; both (N,)."""

    queries: Tensor
    gradients: Tensor
    limit: int | None

    @classmethod
    def empty(cls, n: int, limit: int | None = None) -> Self:
        """Start counting for n rows, with at most `limit` queries each."""
        return cls(torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), limit)


class LabelOracle:
    """Access to the target's decisions, counted per row.

    Row i of what is asked must be row i of the oracle; `oracle[rows]` is the same oracle for some
    of the rows (repeats allowed), with the same ledger.
    """

    def __init__(
        self, prepared: Prepared | Classifier, ledger: Ledger | int, rows: Tensor | None = None
    ) -> None:
        self.prepared = prepared if isinstance(prepared, Prepared) else Prepared(prepared)
        self.ledger = Ledger.empty(ledger) if isinstance(ledger, int) else ledger
        self.rows = torch.arange(len(self.ledger.queries)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        index = rows.cpu() if isinstance(rows, Tensor) else rows
        return type(self)(self.prepared, self.ledger, self.rows[index])

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.prepared.target.classes

    def labels(self, x: Tensor) -> Tensor:
        """Decide on x (N, *S): classes (N,), one query per row."""
        self._count(x)
        return self.prepared.quick(x).argmax(1)

    def succeeds(self, x: Tensor, goal: Goal) -> Tensor:
        """Decide on x (N, *S) and tell which rows reach the goal, (N,) bool; one query per row."""
        self._count(x)
        return goal.reached(self.prepared.quick(x))

    def _count(self, x: Tensor) -> None:
        if len(x) != len(self.rows):
            raise UsageError(
                f"An oracle of {len(self.rows)} rows was asked about {len(x)} rows; use oracle[rows]."
            )
        spent = torch.full_like(self.rows, self.prepared.passes)
        self.ledger.queries.index_add_(0, self.rows, spent)
        limit = self.ledger.limit
        if limit is not None and len(x) and bool((self.ledger.queries[self.rows] > limit).any()):
            self.ledger.queries.index_add_(0, self.rows, -spent)
            raise QueryLimitReached(f"The budget allows {limit} queries per row.")


class ScoreOracle(LabelOracle):
    """Access to the target's logits, counted per row."""

    def logits(self, x: Tensor) -> Tensor:
        """Score x (N, *S): logits (N, K) without a graph, one query per row."""
        self._count(x)
        return self.prepared.quick(x)


class GradientOracle(ScoreOracle):
    """White-box access: logits with a graph, gradients, everything counted per row."""

    def graph(self, x: Tensor) -> Tensor:
        """Score x (N, *S) with a graph: logits (N, K); each backward through them is counted."""
        self._count(x)
        drawn = [_linked(logits, x) for logits in self.prepared.each(self.prepared.steering, x)]
        for logits in drawn:
            if logits.requires_grad:
                logits.register_hook(self._count_backward)
        return drawn[0] if len(drawn) == 1 else torch.stack(drawn).mean(0)

    def _count_backward(self, grad: Tensor) -> None:
        self.ledger.gradients.index_add_(0, self.rows, torch.ones_like(self.rows))

    def gradient(self, x: Tensor, goal: Goal, loss: Loss = "ce") -> Pass:
        """Score x (N, *S) and differentiate the goal's loss: one forward and one backward per draw."""
        if self.prepared.draws is not None:
            return self._expected(x, goal, loss)
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.graph(z)
            values = goal.loss(logits, loss)
            (grad,) = torch.autograd.grad(values.sum(), z)
        return Pass(logits.detach(), values.detach(), grad)

    def _expected(self, x: Tensor, goal: Goal, loss: Loss) -> Pass:
        """Mean loss and gradient over the draws, and the logits of each row's most stubborn draw."""
        self._count(x)
        z = x.detach().requires_grad_()
        found: list[Pass] = []

        def differentiate(z: Tensor) -> Tensor:
            with torch.enable_grad():
                logits = _linked(self.prepared.steering(z), z)
                logits.register_hook(self._count_backward)
                values = goal.loss(logits, loss)
                (grad,) = torch.autograd.grad(values.sum(), z)
            found.append(Pass(logits.detach(), values.detach(), grad))
            return found[-1].logits

        self.prepared.each(differentiate, z)
        logits, values, grads = (torch.stack(parts) for parts in zip(*found, strict=True))
        stubborn = values.argmin(0), torch.arange(len(x), device=x.device)
        return Pass(logits[stubborn], values.mean(0), grads.mean(0))

    def reached(self, goal: Goal, x: Tensor, logits: Tensor) -> Tensor:
        """Tell which rows reach the goal, (N,) bool, by `logits` that this oracle gave for x.

        Where gradients are taken in bfloat16 a claim counts only once float32 confirms it, at
        one more query of the claimed rows.
        """
        # what bfloat16 says need not be clear, for float32 decides
        cheap = self.prepared.cheap is not None
        claimed = (goal.goal if cheap and isinstance(goal, Clearly) else goal).reached(logits)
        if not cheap or not bool(claimed.any()):
            return claimed
        rows = claimed.nonzero().flatten()
        confirmed = claimed.clone()
        confirmed[rows] = goal[rows].reached(self[rows].logits(x[rows]))
        return confirmed
