"""The data that come with casemate: complete, balanced, quick to load, and what they say they are."""

import time
from importlib import resources

import numpy as np
import torch

from casemate.builtin.data import digits, fashion_mini, shapes
from casemate.core.data import Samples


def well_formed(samples: Samples) -> None:
    assert samples.x.dtype == torch.float32
    assert samples.y.dtype == torch.int64
    assert samples.x.min() >= 0
    assert samples.x.max() <= 1
    assert len(samples.names) == samples.classes


def test_clothes_are_balanced_and_cover_the_range() -> None:
    train, test = fashion_mini()
    for samples, count in ((train, 500), (test, 200)):
        well_formed(samples)
        assert samples.shape == (1, 28, 28)
        assert samples.y.bincount().tolist() == [count] * 10
        assert (samples.x.min(), samples.x.max()) == (0, 1)


def test_no_test_image_of_clothes_is_a_training_image() -> None:
    train, test = fashion_mini()
    seen = {image.numpy().tobytes() for image in (train.x * 255).round().byte()}
    assert len(seen) == 5000
    assert not any(image.numpy().tobytes() in seen for image in (test.x * 255).round().byte())


def test_clothes_keep_the_official_order() -> None:
    """The first labels of the official training part are 9 0 0 3 0 2 7 2 5 5, those of the test part 9 2 1 1 6 1 4 6 5 7."""
    train, test = fashion_mini()
    assert train.y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test.y[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_the_file_of_clothes_is_small_quick_and_free_of_objects() -> None:
    file = resources.files("casemate.builtin") / "fashion_mini.npz"
    with resources.as_file(file) as path:
        assert path.stat().st_size < 3.5e6
        with np.load(path, allow_pickle=False) as arrays:
            assert {a.dtype for a in arrays.values()} == {np.dtype("uint8")}
    spent = []
    for _ in range(3):
        begun = time.process_time()
        fashion_mini()
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.1


def test_the_licence_of_the_clothes_is_beside_them() -> None:
    notice = (resources.files("casemate.builtin") / "NOTICE").read_text()
    assert "Copyright (c) 2017 Zalando SE" in notice
    assert "The MIT License" in notice


def test_digits_are_split_once_and_for_all() -> None:
    (train, test), again = digits(), digits()
    for samples, n in ((train, 1297), (test, 500)):
        well_formed(samples)
        assert (len(samples), samples.shape) == (n, (1, 8, 8))
        assert samples.y.bincount().min() > 0.07 * n
    assert torch.equal(train.x, again[0].x)
    assert torch.equal(test.y, again[1].y)


def test_drawn_shapes_are_split_without_overlap() -> None:
    train, test = shapes(120, 60)
    for samples, n in ((train, 120), (test, 60)):
        well_formed(samples)
        assert (len(samples), samples.shape) == (n, (3, 32, 32))
    assert not (train.x[:, None] == test.x[None]).flatten(2).all(2).any()
