"""Hooks that adapt any gradient attack to a defence that hides or scatters gradients.

    layer = bpda(jpeg)                                              # true forward, substitute backward
    oracle = GradientOracle(eot(through(target, ["auto"]), 20), n)  # then any attack, as it is

A defended target is never asked anything else than it answers: the hooks change only how gradients
are taken, so what an attack finds is judged on the deployed target.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from annotated_types import Ge
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from casemate.core.errors import UsageError
from casemate.core.target import Classifier, GradientOracle, Prepared
from casemate.ops.rng import seed_of, seeded

Function = Callable[[Tensor], Tensor]
AUTO = "auto"


class Hooks(BaseModel):
    """How a case adapts to the target, part of what decides its number.

    `eot` draws are averaged in each gradient. `bpda` names layers, by patterns of their paths in the net,
    that gradients go round; "auto" stands for those that declare a stand-in or let no gradient pass.
    `answers` of the target judge each candidate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    eot: Annotated[int, Ge(1)] = 1
    bpda: tuple[str, ...] = ()
    answers: Annotated[int, Ge(1)] = 1


@runtime_checkable
class StandIn(Protocol):
    """A layer that says by what to replace it in backward passes; give your own layers this method."""

    def stand_in(self, x: Tensor, /) -> Tensor:
        """Compute a differentiable likeness of the layer at x (N, *S)."""
        ...


@runtime_checkable
class Averaging(Protocol):
    """A layer whose answers and gradients are means over so many draws of its own."""

    draws: int


class Substituted(nn.Module):
    """A layer g with another's gradient h: forward g(x), backward that of h at x."""

    def __init__(self, layer: nn.Module, backward: Function | None) -> None:
        super().__init__()
        self.layer = layer
        self.backward = backward

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer at x (N, *S)."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = self.layer(x)
            return out
        with torch.no_grad():
            true: Tensor = self.layer(x)
        like = x if self.backward is None else self.backward(x)
        if like.shape != true.shape:
            raise UsageError(
                f"The backward of a layer must return what the layer returns, shape {tuple(true.shape)}. "
                f"Got {tuple(like.shape)}; give a function that crops or rescales as the layer does."
            )
        # the paper writes h + (g - h); in this order the forward is g to the last bit
        return true + (like - like.detach())


def bpda(layer: nn.Module, backward: Literal["identity"] | Function = "identity") -> nn.Module:
    """Give a layer another gradient: backward pass differentiable approximation (Athalye et al. 2018).

        net = nn.Sequential(bpda(quantise), classifier)
        oracle = GradientOracle(Classifier(net, 10, shape), len(x))

    Args:
        layer: what stands in the way, x (N, *S) -> (N, *T); computed as it is in forward passes.
        backward: differentiable function or module near to the layer, also (N, *S) -> (N, *T), which may
            rescale or crop; "identity" where the layer changes little.

    Returns:
        The layer with the gradient of `backward`.
    """
    return Substituted(layer, None if isinstance(backward, str) else backward)


class Draws:
    """Named draws of a target's randomness: each has its own seed, and all together can be repeated."""

    def __init__(self, count: int, seed: int, device: torch.device) -> None:
        self.count, self.seed, self.device, self.made = count, seed, device, 0

    def draw(self) -> AbstractContextManager[None]:
        """Seed torch's generators for one more draw; they are put back afterwards."""
        self.made += 1
        return seeded(seed_of(self.seed, "eot", self.made), self.device)


def eot(target: Classifier | Prepared, n: int, *, seed: int = 0) -> Prepared:
    """Average gradients over n draws of the target's randomness: expectation over transformation.

        oracle = GradientOracle(eot(target, 20), len(x))
        x_adv = pgd(oracle, x, Misclassify(y), Lp(norm="linf", eps=0.1), rng=rows(0, len(x)))

    `oracle.gradient` averages losses and gradients; the logits beside them are, row by row, those of the
    draw farthest from the goal, so that an attack which stops there stops where every draw agrees.
    `oracle.graph` and `oracle.logits` give mean logits. Each draw counts as a pass.

    Args:
        target: what answers at random.
        n: number of draws in each gradient.
        seed: seed of the draws; torch's global generators stay as they are.

    Returns:
        The target, to be given to a `GradientOracle`.
    """
    prepared = copy.copy(target) if isinstance(target, Prepared) else Prepared(target)
    if n < 1:
        raise UsageError(f"The 'n' of eot must be at least 1. Got {n}.")
    prepared.draws = Draws(n, seed, prepared.target.device)
    return prepared


def through(
    target: Classifier | Prepared, layers: Sequence[str] = (AUTO,), x: Tensor | None = None
) -> Prepared:
    """Let gradients go round layers that stop them: BPDA on a finished net.

        oracle = GradientOracle(through(target, ["squeeze"]), len(x))

    Args:
        target: the defended target.
        layers: patterns of paths in the net, such as "0" or "*.jpeg"; "auto" for all layers that
            declare a stand-in, and, where `x` is given, for those that are found to stop gradients.
        x: a few inputs (N, *S) to look for such layers with.

    Returns:
        The target with other gradients and the same answers, to be given to a `GradientOracle`.

    Raises:
        UsageError: a pattern matches no layer.
    """
    prepared = copy.copy(target) if isinstance(target, Prepared) else Prepared(target)
    paths = matching(prepared, layers, x)
    if paths:
        # weights are shared with the net: only the modules around them are new
        memo = {id(t): t for t in [*prepared.net.parameters(), *prepared.net.buffers()]}
        net = copy.deepcopy(prepared.net, memo)
        for path in paths:
            layer = net.get_submodule(path)
            backward = layer.stand_in if isinstance(layer, StandIn) else None
            net.set_submodule(path, Substituted(layer, backward))
        # a bfloat16 copy would keep the layers as they are
        prepared.detour, prepared.cheap = net, None
    return prepared


def adapted(
    oracle: GradientOracle, layers: Sequence[str] = (AUTO,), x: Tensor | None = None
) -> GradientOracle:
    """Give the same oracle, ledger and rows with gradients that go round layers (see `through`)."""
    return type(oracle)(through(oracle.prepared, layers, x), oracle.ledger, oracle.rows)


def matching(prepared: Prepared, layers: Sequence[str], x: Tensor | None) -> list[str]:
    """List the outermost layers of the net that patterns match; raises UsageError where one matches none."""
    names = [name for name, _ in prepared.net.named_modules() if name]
    found: set[str] = set()
    for pattern in layers:
        if pattern == AUTO:
            declared = {n for n, m in prepared.net.named_modules() if n and isinstance(m, StandIn)}
            blocking = (
                {s.path for s in suspects(prepared, x) if s.kind == "blocks"} if x is not None else set()
            )
            found |= declared | blocking
            continue
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise UsageError(f"No layer of the net matches '{pattern}'. Its layers: {', '.join(names[:20])}.")
        found |= matched
    return sorted(n for n in found if not any(n.startswith(f"{other}.") for other in found))


class Suspect(NamedTuple):
    """A layer that misleads gradients: it "blocks" them, or is "random"."""

    path: str
    kind: Literal["blocks", "random"]


def suspects(prepared: Prepared, x: Tensor) -> list[Suspect]:
    """Look for layers whose gradient is zero though they move with their input, or that answer at random.

    Each layer is tried alone, on what reaches it from x (N, *S). Layers of torch itself are known to
    be differentiable and are tried for randomness only.
    """
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            if name not in seen and len(inputs) == 1 and isinstance(inputs[0], Tensor):
                seen[name] = inputs[0].detach()

        return hook

    layers = {name: module for name, module in prepared.net.named_modules() if name}
    handles = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    try:
        with seeded(0, prepared.target.device), torch.no_grad():
            prepared.exact(x.detach())
    finally:
        for handle in handles:
            handle.remove()
    kinds = [(name, _kind(layers[name], given, prepared.target.device)) for name, given in seen.items()]
    return [Suspect(name, kind) for name, kind in kinds if kind is not None]


def _kind(layer: nn.Module, x: Tensor, device: torch.device) -> Literal["blocks", "random"] | None:
    if not x.is_floating_point() or not len(x):
        return None
    with torch.no_grad():
        with seeded(1, device):
            first = layer(x)
        with seeded(2, device):
            second = layer(x)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return None
    if first.shape != second.shape or not torch.equal(first.nan_to_num(), second.nan_to_num()):
        return "random"
    own = not type(layer).__module__.startswith("torch.nn")
    if not own or any(True for _ in layer.children()) or first.shape != x.shape:
        return None
    return "blocks" if _flat(layer, x) and _moves(layer, x, first) else None


def _flat(layer: nn.Module, x: Tensor) -> bool:
    """Tell whether no gradient at all passes through a layer."""
    z = x.clone().requires_grad_()
    with torch.enable_grad():
        out = layer(z)
        if not out.requires_grad:
            return True
        (grad,) = torch.autograd.grad(out.square().sum() + out.sum(), z, allow_unused=True)
    return grad is None or not bool(grad.nan_to_num().any())


def _moves(layer: nn.Module, x: Tensor, out: Tensor) -> bool:
    """Tell whether finite steps of the input change the output."""
    width = float(x.max() - x.min()) or 1.0
    with torch.no_grad():
        return any(not torch.equal(layer(x + step * width), out) for step in (0.02, -0.02, 0.1, -0.1, 0.3))


class Reparameterised(nn.Module):
    """A net behind a map: z -> net(h(z))."""

    def __init__(self, h: nn.Module, target: Classifier) -> None:
        super().__init__()
        self.h, self.net = h, Behind(target)

    def forward(self, z: Tensor) -> Tensor:
        """Classify h(z)."""
        out: Tensor = self.net(self.h(z))
        return out


class Behind(nn.Module):
    """A target as a module of its own: x in [0, 1] to logits, normalisation inside."""

    def __init__(self, target: Classifier) -> None:
        super().__init__()
        self.net = target.net
        self.bounds, self.mean, self.std, self.outputs = (
            target.bounds,
            target.mean,
            target.std,
            target.outputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify x (N, *S)."""
        return Classifier(self.net, 0, (), self.bounds, self.mean, self.std, self.outputs).logits(x)


def reparameterise(target: Classifier, h: nn.Module, shape: tuple[int, ...]) -> Classifier:
    """Attack in other coordinates: x = h(z), for defences that project inputs onto a generator's range.

        behind = reparameterise(target, generator, (16,))
        x_adv = generator(pgd(GradientOracle(behind, len(z)), z, goal, budget, rng=rng))

    Args:
        target: what is attacked in the end.
        h: differentiable map from z (N, *shape) in [0, 1] to inputs x (N, *S) in [0, 1].
        shape: shape of one z.

    Returns:
        A classifier of z; budgets and box hold for z.
    """
    outputs = "labels" if target.outputs == "labels" else "logits"
    return Classifier(
        Reparameterised(h, target), target.classes, shape, outputs=outputs,
        differentiable=target.differentiable, device=target.device,
    )  # fmt: skip
