import re
from pathlib import Path

import numpy as np
import pytest
import torch

from casemate.assess.targets import load_data
from casemate.core.data import Samples
from casemate.core.errors import UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def refusal(spec: object, **settings: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_data(spec, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bytes_become_shares_of_255_and_channels_come_first(tmp_path):
    found = load_data(save(tmp_path, x=PIXELS, y=LABELS))
    assert found.train is None
    assert found.test.shape == (3, 5, 4)
    torch.testing.assert_close(found.test.x, torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255)
    assert [flag.code for flag in found.flags] == ["channels-moved"]


def test_grey_images_get_a_channel_and_say_so(tmp_path):
    found = load_data(save(tmp_path, x=PIXELS[..., 0], y=LABELS))
    assert found.test.shape == (1, 5, 4)
    assert [flag.code for flag in found.flags] == ["channel-added"]


def test_train_and_test_parts_are_kept_apart(tmp_path):
    found = load_data(
        save(tmp_path, x_train=PIXELS[:4], y_train=LABELS[:4], x_test=PIXELS[4:], y_test=LABELS[4:])
    )
    assert len(found.train) == 4
    assert len(found.test) == 2
    assert found.train.classes == found.test.classes == 3


def test_floats_are_mapped_from_their_bounds_to_the_unit_box(tmp_path):
    x = np.array([[-1.0, 0.0], [0.5, 1.0]])
    found = load_data(save(tmp_path, x=x, y=np.array([0, 1])), bounds=(-1, 1))
    torch.testing.assert_close(found.test.x, torch.tensor([[0.0, 0.5], [0.75, 1.0]]))


def test_whole_numbers_0_and_1_are_features_and_not_nearly_black_pixels(tmp_path):
    x = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)
    found = load_data(save(tmp_path, x=x, y=np.array([0, 1])))
    assert found.test.x.tolist() == x.tolist()
    assert [flag.code for flag in found.flags] == ["binary-inputs"]


def test_class_names_are_kept_and_count_the_classes(tmp_path):
    found = load_data(save(tmp_path, x=PIXELS, y=LABELS, classes=np.array(["a", "b", "c", "d"])))
    assert found.test.names == ("a", "b", "c", "d")
    assert found.test.classes == 4


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": PIXELS}, "must hold the arrays x_train, y_train, x_test and y_test, or x and y. Got x."),
        ({"x": PIXELS, "y": LABELS[:5]}, "one label per input. 'test' has 6 inputs, 5 labels"),
        (
            {"x": PIXELS, "y": LABELS.astype(float)},
            "'y_test' must be whole numbers, the classes from 0. Got float64",
        ),
        ({"x": PIXELS, "y": LABELS - 1}, "'y_test' must be classes from 0. Got -1 in row 0"),
        ({"x": PIXELS, "y": np.eye(6, dtype=int)}, "must be class numbers of shape (N,). Got shape (6, 6)"),
        (
            {"x": PIXELS.astype(np.int64), "y": LABELS},
            "'x_test' must be uint8 (0 .. 255) or floats. Got int64",
        ),
        ({"x": LABELS.astype(float), "y": LABELS}, "must hold one input per row, (N, ...). Got shape (6,)"),
        ({"x": PIXELS.astype(float), "y": LABELS}, "must lie in the declared bounds [0, 1]. Got 0 .. 255"),
        ({"x": PIXELS, "y": LABELS, "classes": np.array(["a"])}, "below 1, the number of class names. Got 2"),
        ({"x": PIXELS[:0], "y": LABELS[:0]}, "must have at least one row"),
        ({"x": PIXELS[:0].astype(float), "y": LABELS[:0]}, "must have at least one row"),
        (
            {"x_train": PIXELS[:, :4], "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS},
            "inputs of one shape",
        ),
    ],
)
def test_arrays_that_are_not_as_they_must_be_are_refused_in_one_line(tmp_path, arrays, told):
    assert told in refusal(save(tmp_path, **arrays))


def test_the_first_row_that_is_not_a_number_is_named(tmp_path):
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    assert "Got NaN or infinity in 1 rows, first in row 2" in refusal(save(tmp_path, x=x, y=np.arange(4)))


def test_python_objects_in_an_npz_file_are_not_opened(tmp_path):
    spec = save(tmp_path, x=np.array([{}, {}], dtype=object), y=np.arange(2))
    assert "it holds Python objects, which are not opened" in refusal(spec)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"nothing of the kind")
    assert "cannot be read as a .npz file" in refusal(f"npz:{tmp_path / 'data.npz'}")
    np.save(tmp_path / "single.npy", PIXELS)
    assert "must hold the arrays" in refusal(f"npz:{tmp_path / 'single.npy'}")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("npz:nowhere.npz", "The file of 'npz:nowhere.npz' does not exist"),
        ("folder:nowhere", "The folder of 'folder:nowhere' does not exist"),
        ("nowhere.py:data", "does not exist: nowhere.py"),
        ("builtin:cifar", "The built-in data sets are fashion-mini, digits, shapes. Got 'cifar'"),
        ("data.npz", "Did you mean 'npz:data.npz'?"),
        ("whatever", "Data must be one of builtin:NAME"),
        (7, "Got a int"),
    ],
)
def test_specifications_that_lead_nowhere_are_refused(spec, told):
    assert told in refusal(spec)


@pytest.mark.parametrize("name", ["fashion-mini", "digits", "shapes"])
def test_built_in_data_have_both_parts(name):
    found = load_data(f"builtin:{name}")
    assert found.train is not None
    assert found.train.shape == found.test.shape
    assert 0 <= float(found.test.x.min()) <= float(found.test.x.max()) <= 1


def test_a_function_of_the_user_may_return_arrays_tensors_samples_or_a_mapping(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from casemate import Samples\n"
        "x, y = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2\n"
        "def tensors(): return x, y\n"
        "def arrays(): return x.numpy(), y.numpy(), x.numpy()[:2], y.numpy()[:2]\n"
        "def samples(): return Samples(x, y, 2), Samples(x, y, 2)\n"
        "def one(): return Samples(x, y, 2)\n"
        "def mapping(): return {'x_test': x, 'y_test': y}\n"
        "def number(): return 3\n"
    )
    shapes = {}
    for name in ("tensors", "arrays", "samples", "one", "mapping"):
        found = load_data(f"{tmp_path / 'mine.py'}:{name}")
        shapes[name] = (None if found.train is None else len(found.train), len(found.test))
    assert shapes == {
        "tensors": (None, 4),
        "arrays": (4, 2),
        "samples": (4, 4),
        "one": (None, 4),
        "mapping": (None, 4),
    }
    assert "Got a int" in refusal(f"{tmp_path / 'mine.py'}:number")


def test_data_in_memory_are_taken_as_they_are():
    samples = Samples(torch.rand(3, 2), torch.tensor([0, 1, 1]), 2)
    assert load_data(samples).test is samples
    assert len(load_data((samples.x, samples.y)).test) == 3


def test_the_digest_changes_with_contents_and_labels_and_nothing_else(tmp_path):
    base = load_data(save(tmp_path, x=PIXELS, y=LABELS)).digest
    (tmp_path / "other").mkdir()
    assert load_data(save(tmp_path / "other", x=PIXELS, y=LABELS)).digest == base
    darker = PIXELS.copy()
    darker[0, 0, 0, 0] ^= 1
    swapped = LABELS[[1, 0, 2, 3, 4, 5]]
    names = np.array(["a", "b", "c"])
    changed = [
        load_data(save(tmp_path, x=darker, y=LABELS)).digest,
        load_data(save(tmp_path, x=PIXELS, y=swapped)).digest,
        load_data(save(tmp_path, x=PIXELS, y=LABELS, classes=names)).digest,
        load_data(save(tmp_path, x_test=PIXELS, y_test=LABELS, x_train=PIXELS, y_train=LABELS)).digest,
    ]
    assert len({base, *changed}) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", d) for d in changed)


def test_a_training_part_without_its_test_part_is_refused(tmp_path):
    x, y = np.zeros((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int64)
    np.savez(tmp_path / "mixed.npz", x=x, y=y, x_train=x, y_train=y)
    with pytest.raises(
        UsageError, match="must hold the arrays x_train, y_train, x_test and y_test, or x and y"
    ):
        load_data(f"npz:{tmp_path / 'mixed.npz'}")
