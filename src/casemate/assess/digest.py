"""Digests of data and models: what was judged, by content and never by name alone."""

import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def digest(*parts: str | bytes) -> str:
    """Digest texts and bytes, in order, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        total.update(len(raw).to_bytes(8, "big"))
        total.update(raw)
    return total.hexdigest()


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Digest named tensors by name, dtype, shape and bytes, in the order of their names."""
    parts: list[str | bytes] = []
    for name, tensor in sorted(tensors.items()):
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), raw.numpy().tobytes()]
    return digest(*parts)


def digest_net(net: nn.Module) -> str:
    """Digest a net: its weights and buffers, and its architecture."""
    return digest(digest_architecture(net), digest_tensors(net.state_dict()))


def digest_architecture(net: nn.Module) -> str:
    """Digest a net's structure and the source of its own classes, without its weights.

    The source is in it because a changed `forward` with unchanged weights is another model.
    """
    # the addresses in the text of functions change with every start
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(net))
    hooks = [repr(hook) for module in net.modules() for hook in module._forward_pre_hooks.values()]
    return digest(structure, *_sources(net.modules()), *hooks)


def _sources(modules: Iterable[nn.Module]) -> list[str]:
    classes = {kind for module in modules for kind in type(module).__mro__}
    own = {kind for kind in classes if kind.__module__.partition(".")[0] not in ("torch", "builtins")}
    return [text for _, text in sorted((kind.__qualname__, _source(kind)) for kind in own)]


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__
