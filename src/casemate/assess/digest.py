"""Digests of data and models: what was judged, by content and never by name alone."""

import contextlib
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
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
        values = tensor.detach().cpu().contiguous().reshape(-1)
        # torch cannot view nothing as bytes
        raw = values.view(torch.uint8).numpy().tobytes() if len(values) else b""
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), raw]
    return digest(*parts)


def digest_net(net: nn.Module) -> str:
    """Digest a net: its weights and buffers, and its architecture."""
    return digest(digest_architecture(net), digest_tensors(net.state_dict()))


def digest_architecture(net: nn.Module) -> str:
    """Digest a net's structure, and the files and settings of its own classes, without its weights.

    A changed `forward`, a function that it calls, or a number that it multiplies by make another
    model of the same weights. What other files of the user's hold is not seen.
    """
    # the addresses in the text of functions change with every start
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(net))
    hooks = [repr(hook) for module in net.modules() for hook in module._forward_pre_hooks.values()]
    return digest(structure, *_sources(net.modules()), *_settings(net), *hooks)


def _own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("torch", "builtins")


def _sources(modules: Iterable[nn.Module]) -> list[str]:
    classes = {kind for module in modules for kind in type(module).__mro__ if _own(kind)}
    return [kind.__qualname__ for kind in sorted(classes, key=_name)] + sorted({_source(c) for c in classes})


def _name(kind: type) -> str:
    return kind.__qualname__


def _source(kind: type) -> str:
    """Text of the file of a class, or where it has none, as in a notebook, of the class alone."""
    for thing in (sys.modules.get(kind.__module__), kind):
        with contextlib.suppress(OSError, TypeError):
            return inspect.getsource(thing)  # type: ignore[arg-type]
    return kind.__qualname__


def _settings(net: nn.Module) -> list[str]:
    """Values that modules of the user's own classes keep beside weights and buffers."""
    found = []
    for path, module in net.named_modules():
        if _own(type(module)):
            known = vars(nn.Module())
            found += [f"{path}.{k}={_text(v)}" for k, v in sorted(vars(module).items()) if k not in known]
    return found


def _text(value: Any) -> str:
    """Write a setting in a way that does not change with the next start; of strange objects the type."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | torch.dtype():
            return repr(value)
        case Tensor():
            return digest_tensors({"": value})
        case np.ndarray() | np.generic() if not value.dtype.hasobject:
            return f"{value.dtype} {value.shape} {digest(value.tobytes())}"
        case list() | tuple():
            return f"[{', '.join(map(_text, value))}]"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(_text, value)))}}}"
        case dict():
            return f"{{{', '.join(sorted(f'{_text(k)}: {_text(v)}' for k, v in value.items()))}}}"
        case functools.partial():
            return f"{_text(value.func)}({_text(value.args)}, {_text(value.keywords)})"
        case _:
            return str(getattr(value, "__qualname__", type(value).__qualname__))
