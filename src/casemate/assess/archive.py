"""Look into model files before anything in them is run.

Files of `torch.save` and `torch.export` can carry pickles, native code and text that their loaders
execute. What a model needs is weights and a graph of tensor operations, so only these get through.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

from casemate.core.errors import UsageError

Kind = Literal["safetensors", "onnx", "pt2", "torchscript", "pickle", "unknown"]
HOW_TO_CONVERT = (
    "a pickle can run any code when it is opened. Convert it where it is trusted: "
    "safetensors.torch.save_file(net.state_dict(), 'weights.safetensors'), "
    "then give --model file.py:function+weights.safetensors"
)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|_operator\.[a-z]+")
# these reach any attribute or method of what they are given
_REACHING = ("_operator.attrgetter", "_operator.methodcaller", "_operator.call")
_NAMES = (
    "name",
    "parameter_name",
    "buffer_name",
    "tensor_constant_name",
    "custom_obj_name",
    "fqn",
    "forward_arg_names",
)
# sizes are sympy expressions, which sympy evaluates: constructors of sympy, symbols and numbers only
_SIZE = re.compile(
    r"(?:Symbol\('\w+'(?:, \w+=(?:True|False))*\)|[A-Z]\w*|[a-z]\d+|\d+(?:\.\d+)?|[\s+\-*/(),<>=&|~])*"
)


def kind_of(path: Path) -> Kind:
    """Recognise a model file by its content, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(16)
    if zipfile.is_zipfile(path):
        names = {name.partition("/")[2] for name in zipfile.ZipFile(path).namelist()}
        if "archive_format" in names or any(n.startswith("models/") for n in names):
            return "pt2"
        return "torchscript" if "constants.pkl" in names else "pickle"
    # before pickle: a header of 640 bytes begins as protocol 2 does
    if len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    # protocol 2 and later begin with PROTO; protocol 0 and 1 of an object with MARK or GLOBAL
    if (head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")) or head[:1] in (
        b"(",
        b"c",
        b"]",
        b"}",
    ):
        return "pickle"
    if path.suffix == ".onnx":
        return "onnx"
    return "unknown"


def checked_pt2(path: Path) -> io.BytesIO:
    """Copy a `torch.export` archive without whatever could run code.

    The example inputs, which the loader may unpickle, and the guards, which it executes, are left
    out; both only serve to check inputs. Raises UsageError if what the model needs cannot be had
    safely; says what.
    """
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, raw in content.items():
        inner = name.partition("/")[2]
        if inner.startswith("data/aotinductor"):
            raise UsageError(
                f"{path.name} holds compiled machine code, which is not run. Save it by torch.export.save."
            )
        if inner.startswith("data/sample_inputs/"):
            content[name] = b""
        elif inner.endswith("_config.json"):
            _check_payloads(path, json.loads(raw))
        elif inner.startswith("models/"):
            content[name] = json.dumps(_checked_graph(path, json.loads(raw))).encode()
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    copy.seek(0)
    return copy


def _check_payloads(path: Path, config: dict[str, Any]) -> None:
    for name, payload in config.get("config", {}).items():
        if payload.get("use_pickle"):
            raise UsageError(
                f"{path.name} keeps '{name}' as a pickle, which can run any code; it is not opened."
            )


def _checked_graph(path: Path, program: dict[str, Any]) -> dict[str, Any]:
    for target in _values(program, "target"):
        if not _OPERATOR.fullmatch(str(target)) or target in _REACHING:
            raise UsageError(f"{path.name} calls '{target}', which is no tensor operation; it is not run.")
    for text in _values(program, "expr_str"):
        if "__" in str(text) or not _SIZE.fullmatch(str(text)):
            raise UsageError(f"{path.name} has a size that is no arithmetic: {text!r}; it is not evaluated.")
    # names are written into the code that is generated from the graph
    names = [n for key in _NAMES for n in _values(program, key)] + list(program.get("range_constraints", {}))
    for name in names:
        if not all(re.fullmatch(r"[\w.]*", str(n)) for n in (name if isinstance(name, list) else [name])):
            raise UsageError(f"{path.name} has a name that is no identifier: {name!r}; it is not run.")
    return {**program, "guards_code": []}


def _values(tree: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(tree, dict):
        here = [tree[key]] if key in tree else []
        return here + [v for child in tree.values() for v in _values(child, key)]
    if isinstance(tree, list):
        return [v for child in tree for v in _values(child, key)]
    return []
