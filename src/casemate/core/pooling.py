"""Pooling before a rectifier instead of after it: the same values at a fraction of the work."""

from torch import nn


def pool_first(net: nn.Module) -> nn.Module:
    """Let the rectifiers of a private net work on pooled values, in place.

    The largest of rectified values is the rectified largest value, and the gradient goes to the same
    place, so nothing changes but the number of values that the rectifier sees: a quarter of them
    for pools of 2 by 2. Only nets that are sequences through and through are changed, for there what
    runs after what is known; layers keep their names.
    """
    if type(net) is nn.Sequential and not net._forward_hooks:
        layers = list(net.named_children())
        # a layer that stands in several places would be listed once
        if len(layers) == len(net) and len({id(layer) for _, layer in layers}) == len(layers):
            _swap(layers)
            net._modules = dict(layers)
        for layer in net:
            pool_first(layer)
    return net


def _swap(layers: list[tuple[str, nn.Module]]) -> None:
    for i in range(len(layers) - 1):
        first, second = layers[i][1], layers[i + 1][1]
        if type(first) is nn.ReLU and type(second) is nn.MaxPool2d and not _watched(first, second):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]


def _watched(*layers: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(layer, kind) for layer in layers for kind in hooks) or any(
        isinstance(layer, nn.MaxPool2d) and layer.return_indices for layer in layers
    )
