import importlib.machinery
import json
import pickle
import subprocess
import sys

import pytest

from casemate.assess.imported import parse_function
from casemate.core.errors import UsageError


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return f"{folder / name}"


def refusal(call):
    with pytest.raises(UsageError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_function_in_a_file_is_found_and_called(tmp_path):
    function = parse_function(write(tmp_path, "def double(x): return 2 * x\n") + ":double")
    assert function(21) == 42
    assert str(function) == "mine.py:double"


def test_a_function_in_a_package_is_found():
    assert parse_function("math:sqrt")(9) == 3


def test_a_file_may_import_its_neighbours(tmp_path):
    write(tmp_path, "value = 7\n", "neighbour_of_mine.py")
    function = parse_function(
        write(tmp_path, "from neighbour_of_mine import value\ndef get(): return value\n") + ":get"
    )
    assert function() == 7


def test_a_user_module_replaces_no_other_module(tmp_path):
    function = parse_function(write(tmp_path, "def loads(): return 'mine'\n", "json.py") + ":loads")
    assert function() == "mine"
    assert sys.modules["json"] is json


def test_a_changed_file_is_read_again(tmp_path):
    spec = write(tmp_path, "def get(): return 1\n") + ":get"
    assert parse_function(spec)() == 1
    write(tmp_path, "def get(): return 2\n")
    assert parse_function(spec)() == 2


def test_a_function_travels_to_another_process(tmp_path):
    function = parse_function(write(tmp_path, "def get(): return 'there'\n") + ":get")
    (tmp_path / "function.pickle").write_bytes(pickle.dumps(function))
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'function.pickle')!r}, 'rb'))())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "there"


@pytest.mark.parametrize(
    "text", ["model.onnx", "out/model.pt2", "a:b:c d", "file.py:", "file.py:not a name", "7:x"]
)
def test_texts_that_name_no_function_are_left_to_others(text):
    assert parse_function(text) is None


def test_what_went_wrong_is_said_with_its_place(tmp_path):
    text = "import math\n\ndef fails():\n    raise ValueError('no\\nway')\n\n"
    text += "def stops():\n    raise SystemExit(3)\nvalue = 1\n"
    source = write(tmp_path, text)
    assert refusal(parse_function(source + ":fails")) == (
        "mine.py:fails raised ValueError: no way (mine.py, line 4)."
    )
    assert "raised SystemExit: 3" in refusal(parse_function(source + ":stops"))
    assert refusal(parse_function(source + ":fail")).endswith(
        "does not exist. Functions there: fails, stops."
    )
    assert "must be a function. Got a value of type int" in refusal(parse_function(source + ":value"))


def test_a_module_that_cannot_be_imported_is_named_with_the_reason(tmp_path):
    assert "broken.py cannot be imported: SyntaxError" in refusal(
        parse_function(write(tmp_path, "def (:\n", "broken.py") + ":x")
    )
    assert "cannot be imported: ZeroDivisionError: division by zero (mine.py, line 2)" in refusal(
        parse_function(write(tmp_path, "\n1 / 0\n") + ":x")
    )
    assert "The module no_such_module cannot be imported: ModuleNotFoundError" in refusal(
        parse_function("no_such_module:x")
    )


def test_a_missing_file_is_named():
    assert "does not exist: nowhere.py" in refusal(lambda: parse_function("nowhere.py:x"))


def test_a_neighbour_does_not_hide_the_standard_library_from_worker_processes(tmp_path):
    parse_function(write(tmp_path, "def loads(): return 'mine'\n", "json.py") + ":loads")()
    found = importlib.machinery.PathFinder.find_spec("json", sys.path)
    assert found.origin == json.__spec__.origin
