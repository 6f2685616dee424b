"""Nets from files: weights for an architecture, and whole models as torch.export, TorchScript or ONNX."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from casemate.assess.archive import HOW_TO_CONVERT, checked_pt2, kind_of
from casemate.assess.digest import digest
from casemate.assess.query import in_batches
from casemate.core.errors import UsageError


def load_weights(net: nn.Module, path: Path) -> nn.Module:
    """Put the weights of a safetensors file into `net` and return it.

    Raises UsageError if the file is missing, is no safetensors file, or does not fit the net.
    """
    if not path.is_file():
        raise UsageError(f"The weights file {path} does not exist.")
    kind = kind_of(path)
    if kind in ("pickle", "torchscript", "pt2"):
        raise UsageError(
            f"The weights must be a safetensors file. {path.name} is a {_NAMES[kind]}: {HOW_TO_CONVERT}."
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"The weights must be a safetensors file. {path.name} cannot be read: {error}."
        ) from None
    _check_fit(net.state_dict(), weights, path.name)
    net.load_state_dict(weights, strict=False)
    return net


_NAMES = {
    "pickle": "file of torch.save or pickle",
    "torchscript": "TorchScript program",
    "pt2": "torch.export program",
}


def _check_fit(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], name: str) -> None:
    # a counter of batches is no weight, and older files lack it
    missing = sorted(k for k in wanted.keys() - got.keys() if not k.endswith("num_batches_tracked"))
    extra = sorted(got.keys() - wanted.keys())
    if missing or extra:
        lacks = f" It lacks {_some(missing)}." if missing else ""
        has = f" It has {_some(extra)}, which the net has not." if extra else ""
        raise UsageError(f"The weights in {name} do not fit the net.{lacks}{has}")
    for key, tensor in got.items():
        if tensor.shape != wanted[key].shape:
            expected, came = tuple(wanted[key].shape), tuple(tensor.shape)
            raise UsageError(
                f"The weights in {name} do not fit the net: '{key}' must be {expected}. Got {came}."
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{n}'" for n in names[:3]) + more


class Exported(nn.Module):
    """The graph of a `torch.export` file.

    Such a graph has no training mode. `size` is the only batch size it takes, or None for any.
    """

    def __init__(self, graph: nn.Module, size: int | None) -> None:
        super().__init__()
        self.graph = graph
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph on x (N, *S)."""
        return self.graph(x) if self.size is None else in_batches(self.graph, x, self.size)

    def train(self, mode: bool = True) -> "Exported":
        """Stay as it is: the mode was fixed when the graph was exported."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exported":
        with warnings.catch_warnings():
            # torch's own copy of a graph uses names that torch has deprecated
            warnings.simplefilter("ignore", FutureWarning)
            return Exported(copy.deepcopy(self.graph, memo), self.size)


def load_exported(path: Path, device: torch.device) -> nn.Module:
    """Open a `torch.export` file whose program takes one batch and returns one tensor."""
    checked = checked_pt2(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(checked)
            if device.type != "cpu":
                program = move_to_device_pass(program, device)
            graph = program.module()
    except Exception as error:
        raise UsageError(f"{path.name} cannot be opened as torch.export: {_line(error)}.") from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UsageError(f"The program in {path.name} must take one input, a batch. It takes {len(inputs)}.")
    first = inputs[0].meta["val"].shape[0]
    return Exported(graph, first if isinstance(first, int) else None)


def load_torchscript(path: Path, device: torch.device) -> nn.Module:
    """Open a TorchScript file."""
    try:
        with warnings.catch_warnings():
            # torch advises against the format, which is no reason not to judge such a model
            warnings.simplefilter("ignore")
            net: nn.Module = torch.jit.load(str(path), map_location=device)
    except Exception as error:
        raise UsageError(f"{path.name} cannot be opened as TorchScript: {_line(error)}.") from error
    # copies of weights that ask for gradients are no leaves and cannot be moved
    for weight in net.parameters():
        weight.requires_grad = False
    # a plain module around it can be frozen and switched like any other
    return nn.Sequential(net)


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file answered by onnxruntime: x (N, *S) to its first output.

    `content` is the digest of the file; `size` is the only batch size it takes, or None; `permute`
    brings x into its order of axes.
    """

    path: str
    content: str
    size: int | None = None
    permute: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Run the model."""
        z = x.permute(self.permute) if self.permute else x
        return self._run(z) if self.size is None else in_batches(self._run, z, self.size)

    def _run(self, x: Tensor) -> Tensor:
        session = _session(self.path, self.content)
        name = session.get_inputs()[0].name
        out = session.run(None, {name: x.float().cpu().contiguous().numpy()})[0]
        return torch.from_numpy(out).to(x)


@lru_cache(maxsize=4)
def _session(path: str, content: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # errors reach the user as exceptions; the runtime's own log would print them twice
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def load_onnx(path: Path, shape: tuple[int, ...]) -> OnnxModel:
    """Open an ONNX file for inputs of this shape; heights and widths may come before channels."""
    try:
        content = digest(*_onnx_bytes(path))
        session = _session(str(path.resolve()), content)
    except ImportError:
        raise UsageError(f"{path.name} needs onnx and onnxruntime: pip install 'casemate[onnx]'.") from None
    except Exception as error:
        raise UsageError(f"{path.name} cannot be opened as ONNX: {_line(error)}.") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UsageError(f"The model in {path.name} must take one input, a batch. It takes {len(inputs)}.")
    declared = list(inputs[0].shape)
    if inputs[0].type != "tensor(float)":
        raise UsageError(f"The model in {path.name} must take float32 values. It takes {inputs[0].type}.")
    size = declared[0] if declared and isinstance(declared[0], int) else None
    return OnnxModel(str(path.resolve()), content, size, _order(declared[1:], shape, path.name))


def _order(declared: list[Any], shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Order of axes that turns inputs of `shape` into those that the model declares."""

    def fits(sizes: tuple[int, ...]) -> bool:
        return len(sizes) == len(declared) and all(
            not isinstance(d, int) or d == s for d, s in zip(declared, sizes, strict=True)
        )

    if fits(shape):
        return ()
    if len(shape) == 3 and fits((*shape[1:], shape[0])):
        return (0, 2, 3, 1)
    raise UsageError(f"The model in {name} takes inputs of shape {tuple(declared)}. The data has {shape}.")


def _onnx_bytes(path: Path) -> list[bytes]:
    """Bytes that decide what an ONNX model answers: the file, and weights that it keeps beside it."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    beside = {ExternalDataInfo(t).location for t in model.graph.initializer if uses_external_data(t)}
    return [path.read_bytes(), *((path.parent / name).read_bytes() for name in sorted(beside))]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
