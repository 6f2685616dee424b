"""Magika's model of file types, read from the ONNX file in its package, with gradients at the bytes.

Files are rows (N, L) of byte / 256 with 1 after their end, L at most 4,096; one-hot codes (N, L, 257) do as
well. Needs the extra `malware`: the package `magika` has weights and client, `onnx` reads the file.
"""

import json
import sysconfig
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, one_hot

from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.programs import PAD, files, rows_of, tokens
from casemate.core.target import Classifier
from casemate.ops.rng import generator

LENGTH = 4096
PART = 1024  # bytes that the model reads at each end
WHITE = b" \t\n\r\x0b\x0c"
NAME = "standard_v3_3"


class Magika(nn.Module):
    """Two dense layers, a convolution over groups of four bytes, and normalisations between."""

    def __init__(self, weights: Mapping[str, Tensor], labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.weights = nn.ParameterDict({name: nn.Parameter(value) for name, value in weights.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Score files (N, L), or one-hot codes (N, L, 257), over the file types: logits (N, 214)."""
        code = x if x.dim() == 3 else one_hot(tokens(x), PAD + 1).to(x)
        places, there = seen(code.argmax(2))
        ends = one_hot(torch.tensor(PAD, device=x.device), PAD + 1).to(x)
        read = code.gather(1, places[..., None].expand(-1, -1, PAD + 1))
        return self.logits(torch.where(there[..., None], read, ends))

    def logits(self, code: Tensor) -> Tensor:
        """Score what the model reads of files, one-hot (N, 2048, 257)."""
        w = self.weights
        h = gelu(code @ w["embedding"] + w["embedding_bias"], approximate="tanh")
        h = _normalised(h.reshape(-1, 512, 256)) * w["scale_0"] + w["shift_0"]
        h = torch.nn.functional.conv1d(h.transpose(1, 2), w["conv"], w["conv_bias"])
        h = gelu(h, approximate="tanh").amax(2)
        h = _normalised(h) * w["scale_1"] + w["shift_1"]
        return linear(h, w["dense"], w["dense_bias"])

    def confirm(self, x: Tensor) -> Tensor:
        """Ask Magika's own client for the model's label of each file (N, L): numbers (N,)."""
        client = _client()
        said = [client.identify_bytes(raw).dl.label for raw in files(x)]
        return torch.tensor([self.labels.index(str(label)) for label in said], device=x.device)


def _normalised(h: Tensor) -> Tensor:
    """Centre and scale along dimension 1, with the variance as the file computes it."""
    mean = h.mean(1, keepdim=True)
    variance = ((h * h).mean(1, keepdim=True) - mean * mean).clamp(min=0)
    return (h - mean) / (variance + 1e-6).sqrt()


def seen(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Find what the model reads of files (N, L): positions (N, 2048), and which of them hold a byte.

    The first 1,024 bytes after leading white space, padded behind, and the last 1,024 before trailing
    white space, padded in front.
    """
    length = numbers.shape[1]
    position = torch.arange(length, device=numbers.device)
    white = (numbers[..., None] == torch.tensor(list(WHITE), device=numbers.device)).any(2)
    size = (numbers != PAD).sum(1)
    dark = ~white & (numbers != PAD)
    first = torch.where(dark, position, length).amin(1).minimum(size)
    last = torch.where(dark, position + 1, 0).amax(1)
    offset = torch.arange(PART, device=numbers.device)
    begin = first[:, None] + offset
    end = last[:, None] - PART + offset
    places = torch.cat([begin, end], 1)
    there = torch.cat([begin < size[:, None], end >= 0], 1)
    return places.clamp(0, length - 1), there


def magika() -> Classifier:
    """Load the model of the installed package `magika`; the parameters come from its ONNX file."""
    net = Magika(*_read())
    return Classifier(net.eval(), len(net.labels), (LENGTH,))


def available() -> bool:
    """Tell whether the extra `malware` is installed."""
    return all(find_spec(name) is not None for name in ("magika", "onnx", "onnxruntime"))


def path() -> Path:
    """Find the ONNX file in the package; raises UsageError where the package is missing."""
    if not available():
        raise UsageError("Magika needs the extra 'malware': pip install 'casemate[malware]'.")
    return Path(str(import_module("magika").__file__)).parent / "models" / NAME / "model.onnx"


@cache
def _client() -> Any:
    path()
    return import_module("magika").Magika()


def _read() -> tuple[dict[str, Tensor], tuple[str, ...]]:
    import onnx

    model = onnx.load(str(path()))
    # the names are those that the export gave the layers
    held = {
        i.name.rpartition("get_logits_/")[2]: onnx.numpy_helper.to_array(i) for i in model.graph.initializer
    }
    raw = {name: torch.tensor(value) for name, value in held.items()}
    config = json.loads((path().parent / "config.min.json").read_text(encoding="utf-8"))
    weights = {
        "embedding": raw["Const:0"],
        "embedding_bias": raw["MagikaV2/Dense_0/Reshape:0"],
        "scale_0": raw["MagikaV2/LayerNorm_0/Reshape_2:0"],
        "shift_0": raw["MagikaV2/LayerNorm_0/Reshape_3:0"],
        "conv": raw["MagikaV2/Conv_0/transpose_3:0"][..., 0],
        "conv_bias": raw["const_fold_opt__209"].flatten(),
        "scale_1": raw["MagikaV2/LayerNorm_1/Reshape_2:0"],
        "shift_1": raw["MagikaV2/LayerNorm_1/Reshape_3:0"],
        "dense": raw["Const_24:0"].T.contiguous(),
        "dense_bias": raw["MagikaV2/Dense_1/Reshape:0"].flatten(),
    }
    return weights, tuple(config["target_labels_space"])


def sources(count: int = 200, shortest: int = 500, longest: int = 3800) -> tuple[Samples, Samples]:
    """Read Python's own library: `count` sources of a size in bytes, as files of the class "python".

    Which files those are depends on the Python that runs. Half are for practice, half for tests.
    """
    _, labels = _read()
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = [
        p.read_bytes()
        for p in sorted(folder.rglob("*.py"))
        if "site-packages" not in p.parts and shortest <= p.stat().st_size <= longest
    ]
    found = sorted({raw for raw in found if raw.isascii()})
    order = torch.randperm(len(found), generator=generator(0, "sources"))[:count].tolist()
    x = rows_of([found[i] for i in order], LENGTH)
    y = torch.full((len(x),), labels.index("python"))
    samples = Samples(x, y, len(labels), labels)
    return samples[slice(0, len(x) // 2)], samples[slice(len(x) // 2, None)]
