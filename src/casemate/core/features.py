"""What a net knows of an input just before it decides."""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from casemate.core.compiled import compile_forward, worth_compiling
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier, Prepared, laid_out, order_for, quickened

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid)
NO_HEAD = "the net does not end in a linear layer (nn.Linear), whose input would be the features"


def penultimate(model: Classifier, x: Tensor, /, *, batch: int = 125) -> Tensor:
    """Compute the input of the last linear layer for x (N, *S): features (N, D), without a graph.

    Args:
        model: its net ends in an `nn.Linear` of K outputs; the net is not touched.
        x: inputs (N, *S).
        batch: rows at a time.

    Returns:
        Features (N, D), on the device of `x`.

    Raises:
        NotApplicable: the last `nn.Linear` is not the classifying one.
    """
    if not len(x):
        return x.new_zeros(0, 0)
    net = copy.deepcopy(model.net).eval().requires_grad_(False)
    cut = _Cut(net, _classifying(replace(model, net=net), x[:2].to(model.device)))
    prepared = Prepared(replace(model, net=cut, outputs="logits"))
    if worth_compiling(net, len(x)):
        prepared.fast = compile_forward(prepared, x[:64])
    return torch.cat([prepared.quick(part.to(model.device)).to(x.device) for part in x.split(batch)])


class _Cut(nn.Module):
    """A net that gives what its layer at `path` is given, (N, D)."""

    def __init__(self, net: nn.Module, path: str) -> None:
        super().__init__()
        self.net, self.path = net, path

    def forward(self, z: Tensor) -> Tensor:
        seen: list[Tensor] = []
        layer = self.net.get_submodule(self.path)
        with layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])):
            self.net(z)
        # a trace takes sizes for values of its first batch; what it gives is compared elsewhere
        recorded = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not recorded and (not seen or len(seen[-1]) != len(z)):
            raise NotApplicable(NO_HEAD)
        return seen[-1].flatten(1)


def _classifying(model: Classifier, x: Tensor) -> str:
    """Find the linear layer that a net in evaluation mode ends in, on inputs x: its path."""
    last: list[tuple[str, torch.Size]] = []
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: last.append((name, output.shape))
        )
        for name, layer in model.net.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    with torch.no_grad():
        logits = model.logits(x)
    for hook in hooks:
        hook.remove()
    if not last or last[-1][1] != logits.shape:
        raise NotApplicable(NO_HEAD)
    return last[-1][0]


@dataclass(frozen=True)
class Halves:
    """A classifier cut before its last layer: a private copy in evaluation mode, with constant weights.

    `path` names the last layer in the net. Features come from `fast`, the same net laid out for speed, which
    takes images in `order`.
    """

    model: Classifier
    path: str
    fast: Classifier
    order: torch.memory_format

    @property
    def head(self) -> nn.Linear:
        """The layer that classifies."""
        found = self.model.net.get_submodule(self.path)
        assert isinstance(found, nn.Linear)
        return found

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of the last layer for x (N, *S): (N, D), with a graph if x asks for one."""
        seen: list[Tensor] = []
        last = self.fast.net.get_submodule(self.path)
        with last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0])):
            self.fast.logits(laid_out(x, self.order))
        return seen[-1].flatten(1)

    def known(self, x: Tensor, *, batch: int = 500) -> Tensor:
        """Compute the same for many rows, `batch` at a time and without a graph."""
        with torch.no_grad():
            return torch.cat([self.features(part) for part in x.split(batch)])

    def with_head(self, weights: Tensor) -> Classifier:
        """Give the classifier another last layer, of weights (K, D + 1), the biases in the last column."""
        old = self.head
        layer = nn.Linear(old.in_features, len(weights), device=old.weight.device, dtype=old.weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weights[:, :-1])
            layer.bias.copy_(weights[:, -1])
        net: nn.Module = layer
        if self.path:
            net = copy.deepcopy(self.model.net)
            parent, _, name = self.path.rpartition(".")
            setattr(net.get_submodule(parent), name, layer)
        return replace(self.model, net=net.eval().requires_grad_(False), classes=len(weights))


def halves(model: Classifier, /, *, dropout: float = 0.0) -> Halves:
    """Cut a classifier before the linear layer that classifies.

    Args:
        model: its net ends in an `nn.Linear` of K outputs; the net is not touched.
        dropout: share of values, in [0, 1), that each pass sets to 0 at random. The net's own dropout
            layers get this rate; where there are none, every activation is followed by one.

    Returns:
        The two halves.

    Raises:
        NotApplicable: the last `nn.Linear` is not the classifying one.
    """
    net = copy.deepcopy(model.net).eval().requires_grad_(False)
    spy = replace(model, net=net)
    dtype = next((p.dtype for p in net.parameters()), None)
    path = _classifying(spy, torch.zeros(1, *model.shape, dtype=dtype, device=model.device))
    if dropout:
        _drop(net, dropout)
    order = order_for(net, model.shape)
    return Halves(spy, path, replace(spy, net=quickened(copy.deepcopy(net), order)), order)


def _drop(net: nn.Module, rate: float) -> None:
    own = [m for m in net.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    for drop in own:
        drop.p = rate
        drop.train()
    if own:
        return
    for layer in net.modules():
        if isinstance(layer, ACTIVATIONS):
            layer.register_forward_hook(
                lambda layer, inputs, output: nn.functional.dropout(output, rate, training=True)
            )
