"""What must not get through: each test puts one thing into a good file that its loader would run."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from casemate.assess.archive import checked_pt2, kind_of
from casemate.core.errors import UsageError


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.BatchNorm1d(3)).eval()
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    shapes = ({0: torch.export.Dim("n", min=2)},)
    torch.export.save(torch.export.export(net, (torch.rand(4, 2, 3),), dynamic_shapes=shapes), path)
    return path


def altered(
    good: Path, folder: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None
) -> Path:
    path = folder / "model.pt2"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, raw in (more or {}).items():
            new.writestr(name, raw)
    return path


def graph(change: Callable[[str], str]) -> Callable[[str, bytes], bytes]:
    return lambda name, raw: change(raw.decode()).encode() if "/models/" in name else raw


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        checked_pt2(path)
    return str(caught.value)


def test_a_good_archive_gives_the_same_program(good):
    x = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))
    before, after = torch.export.load(good), torch.export.load(checked_pt2(good))
    torch.testing.assert_close(after.module()(x), before.module()(x))


def test_example_inputs_and_guards_are_left_out(good, tmp_path):
    path = altered(
        good, tmp_path, graph(lambda text: json.dumps(json.loads(text) | {"guards_code": ["print(1)"]}))
    )
    with zipfile.ZipFile(checked_pt2(path)) as archive:
        names = archive.namelist()
        assert [archive.read(n) for n in names if "sample_inputs" in n] == [b""]
        assert [json.loads(archive.read(n))["guards_code"] for n in names if "/models/" in n] == [[]]


@pytest.mark.parametrize(
    "target", ["torch.os.system", "_operator.methodcaller", "math.exp", "#mine:run", "torch.ops.load_library"]
)
def test_calls_of_anything_but_tensor_operations_are_refused(good, tmp_path, target):
    path = altered(good, tmp_path, graph(lambda text: text.replace("torch.ops.aten.linear.default", target)))
    assert f"calls '{target}', which is no tensor operation" in refusal(path)


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true')", "Symbol('s1').func", "lambdify('x', 'y')", "exit()", "Symbol('a b')"],
)
def test_sizes_that_are_no_arithmetic_are_refused(good, tmp_path, text):
    def change(name: str, raw: bytes) -> bytes:
        if "/models/" not in name:
            return raw
        tree = json.loads(raw)
        put(tree, "expr_str", text)
        return json.dumps(tree).encode()

    assert "a size that is no arithmetic" in refusal(altered(good, tmp_path, change))


def put(tree: object, key: str, value: str) -> None:
    """Set every value of a key in a tree of lists and mappings."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    for child in children:
        put(child, key, value)
    if isinstance(tree, dict) and key in tree:
        tree[key] = value


def test_names_that_would_become_code_are_refused(good, tmp_path):
    path = altered(good, tmp_path, graph(lambda text: text.replace('"linear"', '"linear = print(1) #"')))
    assert "a name that is no identifier" in refusal(path)


def test_pickled_weights_and_machine_code_are_refused(good, tmp_path):
    def change(name: str, raw: bytes) -> bytes:
        return raw.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith(".json") else raw

    assert "as a pickle" in refusal(altered(good, tmp_path, change))
    more = {"model/data/aotinductor/model/library.so": b"code"}
    assert "compiled machine code" in refusal(altered(good, tmp_path, lambda name, raw: raw, more))


def test_kinds_of_files_are_told_by_their_contents(good, tmp_path):
    from safetensors.torch import save

    contents = {
        "safetensors": save({"a": torch.zeros(2)}),
        "unknown": b"hello",
    }
    for kind, raw in (*contents.items(), ("unknown", b""), ("unknown", b"\x80")):
        (tmp_path / "file").write_bytes(raw)
        assert kind_of(tmp_path / "file") == kind
    for setting in (True, False):
        buffer = io.BytesIO()
        torch.save({"a": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=setting)
        (tmp_path / "file").write_bytes(buffer.getvalue())
        assert kind_of(tmp_path / "file") == "pickle"
    assert kind_of(good) == "pt2"


def test_weights_whose_header_is_as_long_as_a_pickle_begins_are_weights(tmp_path):
    """The length comes first, little-endian: 640 is 80 02 00 ..., and so begins a pickle of protocol 2."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(640)
    path = tmp_path / "weights.safetensors"
    path.write_bytes((640).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert kind_of(path) == "safetensors"
