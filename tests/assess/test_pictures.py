from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from casemate.assess.targets import load_data
from casemate.core.errors import UsageError


def draw(path: Path, colour: tuple[int, ...] | int, size: tuple[int, int] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_data(f"folder:{folder}")
    return str(caught.value)


def test_classes_are_numbered_by_name_and_pictures_are_channels_first(tmp_path):
    draw(tmp_path / "zebra" / "1.png", (255, 0, 51))
    draw(tmp_path / "ape" / "1.png", (0, 255, 0))
    draw(tmp_path / "ape" / "2.png", (0, 0, 255))
    found = load_data(f"folder:{tmp_path}")
    assert found.train is None
    assert found.test.names == ("ape", "zebra")
    assert found.test.y.tolist() == [0, 0, 1]
    assert found.test.shape == (3, 3, 4)
    torch.testing.assert_close(found.test.x[2, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_parts_come_from_folders_train_and_val(tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            for i in range(count):
                draw(tmp_path / part / name / f"{i}.png", 40 * i)
    found = load_data(f"folder:{tmp_path}")
    assert (len(found.train), len(found.test)) == (6, 4)
    assert found.test.shape == (1, 3, 4)


def test_a_list_of_classes_fixes_their_numbers(tmp_path):
    draw(tmp_path / "a" / "1.png", 0)
    draw(tmp_path / "b" / "1.png", 0)
    (tmp_path / "classes.txt").write_text("b\nnever seen\na\n")
    found = load_data(f"folder:{tmp_path}")
    assert found.test.classes == 3
    assert found.test.y.tolist() == [0, 2]
    (tmp_path / "classes.txt").write_text("b\n")
    assert "It lacks 'a'" in refusal(tmp_path)


def test_one_coloured_picture_makes_all_coloured(tmp_path):
    draw(tmp_path / "a" / "grey.png", 102)
    draw(tmp_path / "b" / "red.png", (255, 0, 0))
    x = load_data(f"folder:{tmp_path}").test.x
    torch.testing.assert_close(x[0], torch.full((3, 3, 4), 0.4))


def test_pictures_of_several_sizes_are_refused_and_both_are_named(tmp_path):
    draw(tmp_path / "a" / "1.png", 0)
    draw(tmp_path / "b" / "2.png", 0, size=(5, 3))
    message = refusal(tmp_path)
    assert "1.png is 4x3" in message
    assert "2.png is 5x3" in message


def test_a_folder_without_classes_or_pictures_is_refused(tmp_path):
    assert "one folder of pictures per class" in refusal(tmp_path)
    (tmp_path / "a").mkdir()
    assert "must hold pictures" in refusal(tmp_path)


def test_a_training_class_without_test_pictures_is_refused(tmp_path):
    draw(tmp_path / "train" / "a" / "1.png", 0)
    draw(tmp_path / "train" / "b" / "1.png", 0)
    draw(tmp_path / "test" / "a" / "1.png", 0)
    assert "a class that the test part has not: 'b'" in refusal(tmp_path)


def test_a_damaged_picture_is_named(tmp_path):
    draw(tmp_path / "a" / "1.png", 0)
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    assert "2.png cannot be read" in refusal(tmp_path)


def test_bytes_of_a_lossless_picture_arrive_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    x = load_data(f"folder:{tmp_path}").test.x[0]
    assert (x * 255).round().byte().permute(1, 2, 0).numpy().tolist() == pixels.tolist()
