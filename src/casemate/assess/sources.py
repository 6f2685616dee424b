"""Where a model's specification leads: to a function, a file, another library or a black box."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from casemate.assess import model_files
from casemate.assess.archive import HOW_TO_CONVERT, kind_of
from casemate.assess.digest import digest
from casemate.assess.hubs import hf_net, timm_net
from casemate.assess.imported import Function, parse_function
from casemate.assess.query import QueryOnly
from casemate.assess.remote import Endpoint, check_url, find_answer
from casemate.assess.result import Flag
from casemate.core.data import Samples
from casemate.core.errors import NoAnswer, UsageError
from casemate.core.fresh import Fresh, stuck
from casemate.core.target import Classifier

FORMS = (
    "builtin:NAME, file.py:function, package.module:function, a .pt2, .onnx or TorchScript file, "
    "ARCHITECTURE+weights.safetensors, timm:NAME, hf:NAME or http(s)://ADDRESS"
)
REMOTE_TRIAL = 64  # rows whose answers stand for the weights of a black box


@dataclass(frozen=True)
class Source:
    """What a specification leads to: a net, and what else is known about it."""

    net: nn.Module
    make: Callable[[], nn.Module] | None = None
    digest: str | None = None
    differentiable: bool = True
    outputs: str = ""
    flags: tuple[Flag, ...] = ()


def find_model(
    spec: Any, data: Samples, bounds: tuple[float, float], device: torch.device, classes: int | None
) -> Source:
    """Follow a specification to a net."""
    if isinstance(spec, Classifier):
        return _in_memory(spec.net)
    if isinstance(spec, nn.Module):
        return _in_memory(spec)
    if not isinstance(spec, str):
        raise UsageError(
            f"The model must be a specification, a net or a classifier. Got a {type(spec).__name__}."
        )
    if spec.startswith(("http://", "https://")):
        return _remote(spec, data, bounds, classes)
    architecture, plus, weights = spec.rpartition("+")
    if plus and Path(weights).suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        return _weighted(architecture, Path(weights).expanduser(), classes or data.classes)
    kind, colon, rest = spec.partition(":")
    if kind in ("timm", "hf") and colon:
        net = timm_net(rest) if kind == "timm" else hf_net(rest)
        return Source(
            net.eval(), flags=_without_maker("the weights of other libraries' models are not drawn anew")
        )
    function = parse_function(spec)
    if function is not None:
        return _own(function, _net_of(function(), spec))
    return _file(spec, Path(spec).expanduser(), data, device)


def _own(function: Function, net: nn.Module) -> Source:
    layer = stuck(net)
    if layer:
        return Source(net, flags=_without_maker(f"the weights of its layer {layer} cannot be drawn anew"))
    return Source(net, Fresh(function))


def _net_of(value: Any, title: str) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise UsageError(f"{title} must return an nn.Module. Got a {type(value).__name__}.")
    # a net that was just built is in training mode, and that says nothing
    return value.eval()


def _in_memory(net: nn.Module) -> Source:
    return Source(net, flags=_without_maker("it was given as an object; name a function that builds it"))


def _without_maker(reason: str) -> tuple[Flag, ...]:
    return (Flag(code="no-recipe", detail=f"the model cannot be trained anew: {reason}"),)


def _weighted(architecture: str, path: Path, classes: int) -> Source:
    if architecture.startswith("timm:"):
        net = timm_net(architecture.removeprefix("timm:"), classes=classes, pretrained=False)
        return Source(
            model_files.load_weights(net, path).eval(), flags=_without_maker("its architecture is timm's")
        )
    function = parse_function(architecture)
    if function is None:
        raise UsageError(
            f"Weights need an architecture before the '+': file.py:function. Got '{architecture}'."
        )
    net = _net_of(function(), architecture)
    return _own(function, model_files.load_weights(net, path))


def _file(spec: str, path: Path, data: Samples, device: torch.device) -> Source:
    if not path.is_file():
        raise UsageError(f"--model must be one of {FORMS}. Got '{spec}', and there is no such file.")
    alone = _without_maker("its file holds no recipe")
    match kind_of(path):
        case "pt2":
            return Source(
                model_files.load_exported(path, device), digest=digest(path.read_bytes()), flags=alone
            )
        case "torchscript":
            return Source(
                model_files.load_torchscript(path, device), digest=digest(path.read_bytes()), flags=alone
            )
        case "onnx":
            model = model_files.load_onnx(path, data.shape)
            net = QueryOnly(model, f"The ONNX model {path.name}")
            flag = Flag(code="queries-only", detail="an ONNX file gives answers and no gradients")
            return Source(net, None, model.content, False, flags=(flag, *alone))
        case "safetensors":
            raise UsageError(f"{path.name} holds weights only; give --model file.py:function+{spec}.")
        case "pickle":
            raise UsageError(f"{path.name} is a file of torch.save or pickle: {HOW_TO_CONVERT}.")
        case "unknown":
            hint = " Did you mean 'file.py:function'?" if path.suffix == ".py" else ""
            raise UsageError(f"--model must be one of {FORMS}. Got '{spec}', a file of another kind.{hint}")


def _remote(url: str, data: Samples, bounds: tuple[float, float], classes: int | None) -> Source:
    check_url(url)
    endpoint = Endpoint(url, classes or data.classes)
    low, high = bounds
    try:
        rows = low + (high - low) * data.x[:REMOTE_TRIAL]
        endpoint = replace(endpoint, answer=find_answer(endpoint.post({"inputs": rows[:1].tolist()})))
        answers = endpoint(rows)
    except NoAnswer as error:
        raise UsageError(str(error)) from None
    # what cannot be seen is judged by what it does; rounding forgives the noise of a busy server
    seen = digest(url, endpoint.answer or "", str(answers.double().round(decimals=3).tolist()))
    what = "labels" if endpoint.answer == "labels" else "scores"
    flags = (Flag(code="queries-only", detail=f"a black box gives {what} and no gradients"),)
    net = QueryOnly(endpoint, f"The black box {endpoint.name}")
    return Source(
        net, None, seen, False, endpoint.answer or "", (*flags, *_without_maker("it is a black box"))
    )
