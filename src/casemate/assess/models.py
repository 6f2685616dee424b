"""Models by name: functions of the user, files, other libraries' names, black boxes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casemate.assess import model_files
from casemate.assess.archive import HOW_TO_CONVERT, kind_of
from casemate.assess.digest import digest, digest_net
from casemate.assess.hubs import hf_net, timm_net
from casemate.assess.imported import Fresh, Function, parse_function, stuck
from casemate.assess.query import QueryOnly
from casemate.assess.remote import Endpoint, check_url, find_answer
from casemate.assess.result import Flag
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.target import Classifier

FORMS = (
    "builtin:NAME, file.py:function, package.module:function, a .pt2, .onnx or TorchScript file, "
    "ARCHITECTURE+weights.safetensors, timm:NAME, hf:NAME or http(s)://ADDRESS"
)
TRIAL = 8  # rows that a loaded model is tried on
REMOTE_TRIAL = 64  # rows whose answers stand for the weights of a black box


@dataclass(frozen=True)
class Loaded:
    """A target ready to be attacked.

    `make` builds an untrained net of the same architecture, also in another process; None where
    that cannot be had, and then nothing that trains the model can be tested. `flags` tell what
    was noticed on the way.
    """

    classifier: Classifier
    make: Callable[[], nn.Module] | None
    name: str
    digest: str
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Source:
    """What a specification leads to: a net, and what else is known about it."""

    net: nn.Module
    make: Callable[[], nn.Module] | None = None
    digest: str | None = None
    differentiable: bool = True
    outputs: str = ""
    flags: tuple[Flag, ...] = ()


def load_model(
    spec: Any,
    data: Samples,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    device: str | torch.device = "cpu",
    classes: int | None = None,
) -> Loaded:
    """Load a model by its specification and try it on some rows.

    Args:
        spec: a text of one of the forms in `FORMS`, or a net or classifier in memory.
        data: test rows; the model must take inputs of their shape and know their labels.
        bounds: values that the net takes where the data have 0 and 1.
        mean: subtracted per channel, after `bounds`; empty for none.
        std: divided by per channel; empty for none.
        device: "auto", "cpu", "cuda" or "cuda:N".
        classes: number of classes K; None means as many as the model returns.

    Raises:
        UsageError: the model cannot be had, or does not fit the data.
    """
    place = device_of(device)
    check_normalisation(bounds, mean, std, data.shape)
    if isinstance(spec, str) and spec.startswith("builtin:"):
        return _builtin(spec, data, place)
    source = find_model(spec, data, bounds, place, classes)
    if isinstance(spec, Classifier):
        trial = replace(spec, net=source.net, device=place)
    else:
        net = source.net.to(place)
        trial = Classifier(net, 0, data.shape, bounds, mean, std, source.outputs or "logits",
                           differentiable=source.differentiable, device=place)  # fmt: skip
    target, flags = tried(trial, data, classes, source.outputs)
    seen = digest(
        str((target.bounds, target.mean, target.std, target.outputs)), source.digest or digest_net(source.net)
    )
    name = spec if isinstance(spec, str) else type(source.net).__name__
    return Loaded(target, source.make, name, seen, (*source.flags, *flags))


def device_of(name: str | torch.device) -> torch.device:
    """Choose a device by name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N. Got '{name}'.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device '{name}' was asked for, and no GPU is available; use --device cpu.")
    return device


def check_normalisation(
    bounds: tuple[float, float], mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]
) -> None:
    """Refuse bounds, means and deviations that cannot be meant."""
    if not bounds[0] < bounds[1]:
        raise UsageError(f"--bounds must be LOW,HIGH with LOW < HIGH. Got {bounds[0]:g},{bounds[1]:g}.")
    if bool(mean) != bool(std):
        raise UsageError("--mean and --std must be given together, one number per channel each.")
    for option, values in (("--mean", mean), ("--std", std)):
        if values and len(values) not in (1, shape[0]):
            raise UsageError(
                f"{option} must have one number per channel, {shape[0]} here, or one. Got {len(values)}."
            )
    if any(not s > 0 for s in std):
        raise UsageError(f"--std must be above 0. Got {min(std):g}.")


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
        return Source(net, flags=_without_maker("the weights of other libraries' models are not drawn anew"))
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
    return value


def _in_memory(net: nn.Module) -> Source:
    return Source(net, flags=_without_maker("it was given as an object; name a function that builds it"))


def _without_maker(reason: str) -> tuple[Flag, ...]:
    return (Flag(code="no-recipe", detail=f"the model cannot be trained anew: {reason}"),)


def _weighted(architecture: str, path: Path, classes: int) -> Source:
    if architecture.startswith("timm:"):
        net = timm_net(architecture.removeprefix("timm:"), classes=classes, pretrained=False)
        return Source(model_files.load_weights(net, path), flags=_without_maker("its architecture is timm's"))
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
            return Source(net, None, digest(*model_files.onnx_bytes(path)), False, flags=(flag, *alone))
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
    except ConnectionError as error:
        raise UsageError(str(error)) from None
    # what cannot be seen is judged by what it does; rounding forgives the noise of a busy server
    seen = digest(url, endpoint.answer or "", str(answers.double().round(decimals=3).tolist()))
    what = "labels" if endpoint.answer == "labels" else "scores"
    flags = (Flag(code="queries-only", detail=f"a black box gives {what} and no gradients"),)
    net = QueryOnly(endpoint, f"The black box {endpoint.name}")
    return Source(
        net, None, seen, False, endpoint.answer or "", (*flags, *_without_maker("it is a black box"))
    )


def tried(
    target: Classifier, data: Samples, classes: int | None, outputs: str
) -> tuple[Classifier, tuple[Flag, ...]]:
    """Try a target on some rows: the target with its number of classes and kind of outputs."""
    x = data.x[:TRIAL]
    out = _answers(target, x)
    k = out.shape[1]
    if classes is not None and classes != k:
        raise UsageError(f"The model must return {classes} scores per input. It returns {k}.")
    if k < data.classes:
        raise UsageError(
            f"The model must know every label of the data, 0 .. {data.classes - 1}. It returns {k} scores."
        )
    bad = ~out.isfinite().all(1)
    if bad.all():
        raise UsageError(
            "The model must return finite numbers. It returns NaN or infinity for every row it was tried on."
        )
    flags = []
    if k > data.classes:
        detail = f"the model has {k} classes, the data {data.classes}: label i must mean output i"
        flags.append(Flag(code="more-classes", detail=detail))
    sums = out.sum(1)
    if not outputs and bool((out >= 0).all() and ((sums - 1).abs() < 1e-3).all()):
        outputs = "probabilities"
        flags.append(
            Flag(
                code="probabilities", detail="outputs are in [0, 1] and add up to 1; their logarithm is used"
            )
        )
    return replace(target, classes=k, outputs=outputs or target.outputs), tuple(flags)


class _Witness(nn.Module):
    """Lets a net answer and looks at the type of what comes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Answer x (N, *S)."""
        out = self.net(x)
        if not isinstance(out, Tensor):
            raise UsageError(
                f"The model must return a tensor of scores (N, K). It returns a {type(out).__name__}."
            )
        return out


def _answers(target: Classifier, x: Tensor) -> Tensor:
    try:
        out = replace(target, net=_Witness(target.net), outputs="logits").predict(x)
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise UsageError(f"The model failed on a batch of shape {tuple(x.shape)}: {text}.") from error
    if out.dim() != 2 or len(out) != len(x) or out.shape[1] < 2:
        hint = (
            " A single score per input must become two: torch.stack([-z, z], 1)."
            if out.numel() == len(x)
            else ""
        )
        raise UsageError(
            f"The model must return scores (N, K), here ({len(x)}, K). It returns shape {tuple(out.shape)}.{hint}"
        )
    return out
