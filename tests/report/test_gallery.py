"""Pictures show the very pixels of the evidence, and the difference as strongly as they say."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import LINF, evasion
from PIL import Image

from casemate.assess.result import Result
from casemate.assess.store import Store
from casemate.report.gallery import CASE_BYTES, SIDE, draw, galleries
from casemate.report.model import Gallery
from casemate.report.png import png

PAIRS = (("gallery", "x", 0.0), ("gallery", "adv", 1.0), ("planted", "x", 0.2), ("planted", "adv", 0.4))


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def drawn(x: np.ndarray, change: float = 0.1, names: tuple[str, ...] = ("cat", "dog")) -> Gallery | str:
    n = len(x)
    arrays = {
        "gallery_x": x, "gallery_adv": np.clip(x + change, 0, 1), "gallery_y": np.zeros(n, int),
        "gallery_pred": np.ones(n, int),
    }  # fmt: skip
    return draw(evasion("evasion.pgd", 1, LINF, {}), arrays, names)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_a_png_holds_the_pixels_it_was_given(shape: tuple[int, ...]) -> None:
    given = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(pixels(png(given)), given)


def test_the_difference_is_amplified_by_what_the_label_says() -> None:
    """A change of 0.05 may grow 10 times before it leaves [-0.5, 0.5]: (0.5 + 10 * 0.05) * 255 = 255."""
    made = drawn(np.full((2, 1, 4, 4), 0.2), change=0.05)
    assert isinstance(made, Gallery)
    assert made.labels == ("clean", "adversarial")
    assert made.pictures[0].difference == "difference \u00d710"
    assert made.pictures[0].size == "L∞ 0.05"
    assert (pixels(made.pictures[0].clean_png) == 51).all()
    assert (pixels(made.pictures[0].changed_png) == 64).all()
    assert (pixels(made.pictures[0].difference_png) == 255).all()


def test_each_difference_is_as_strong_as_it_can_be() -> None:
    """0.1 in float32 is a little more than 0.1, and must still be drawn 5 times."""
    x = np.full((2, 1, 2, 2), 0.2, np.float32)
    x_adv = x + np.array([0.1, 0.004], np.float32).reshape(2, 1, 1, 1)
    made = draw(evasion("evasion.pgd", 1, LINF, {}), {"gallery_x": x, "gallery_adv": x_adv}, ())
    assert isinstance(made, Gallery)
    assert [p.difference for p in made.pictures] == ["difference \u00d75", "difference \u00d7100"]


def test_a_change_of_whole_levels_is_written_in_levels() -> None:
    x = np.full((1, 1, 2, 2), 0.2, np.float32)
    made = draw(
        evasion("evasion.pgd", 1, LINF, {}), {"gallery_x": x, "gallery_adv": x + np.float32(8 / 255)}, ()
    )
    assert isinstance(made, Gallery)
    assert made.pictures[0].size == "L∞ 8/255"


def test_unchanged_inputs_give_a_grey_difference_and_are_called_so() -> None:
    made = drawn(np.full((2, 1, 4, 4), 0.2), change=0.0)
    assert isinstance(made, Gallery)
    assert np.unique(pixels(made.pictures[0].difference_png)).tolist() == [128]
    assert made.note.startswith("The inputs are as they were")


def test_classes_are_named_where_names_are_known() -> None:
    made, bare = drawn(np.zeros((1, 1, 4, 4))), drawn(np.zeros((1, 1, 4, 4)), names=())
    assert isinstance(made, Gallery)
    assert isinstance(bare, Gallery)
    assert (made.pictures[0].before, made.pictures[0].after) == ("cat", "read as dog")
    assert (bare.pictures[0].before, bare.pictures[0].after) == ("class 0", "read as class 1")


@pytest.mark.parametrize(
    ("shape", "form", "size"),
    [
        ((3, 12), "strip", (12, 1)),
        ((3, 9, 11), "image", (11, 9)),
        ((3, 3, 9, 11), "image", (11, 9)),
        ((3, 5, 9, 11), "image", (11, 9)),
        ((3, 1, 3, 500), "image", (83, 3)),
        ((3, 3, 224, 224), "image", (74, 74)),
    ],
)
def test_inputs_of_any_shape_are_drawn_small(
    shape: tuple[int, ...], form: str, size: tuple[int, int]
) -> None:
    """500 wide: blocks of 6 (83 pixels), not tall. 224 wide: blocks of 3 both ways, 74 pixels."""
    made = drawn(np.random.default_rng(1).random(shape))
    assert isinstance(made, Gallery)
    assert (made.form, made.width, made.height) == (form, *size)
    assert made.width <= SIDE or form == "strip"
    assert 2 <= len(made.pictures) <= 3


def test_reduced_pictures_are_averages_and_say_so() -> None:
    x = np.zeros((1, 1, 192, 192))
    x[..., ::2] = 1.0
    made = drawn(x, change=0.0)
    assert isinstance(made, Gallery)
    assert "one pixel stands for 2 x 2" in made.note
    assert np.unique(pixels(made.pictures[0].clean_png)).tolist() == [128]


def test_large_pictures_are_few() -> None:
    made = drawn(np.random.default_rng(1).random((8, 3, 96, 96)))
    assert isinstance(made, Gallery)
    assert len(made.pictures) * 3 * 96 * 96 * 3 <= 2 * CASE_BYTES


def test_inputs_that_cannot_be_drawn_are_named() -> None:
    assert drawn(np.zeros((2, 3, 4, 4, 4))) == "Inputs of shape 3 x 4 x 4 x 4 are not drawn."


def test_values_that_are_not_numbers_are_drawn_black() -> None:
    made = drawn(np.full((1, 1, 2, 2), np.nan))
    assert isinstance(made, Gallery)
    assert (pixels(made.pictures[0].clean_png) == 0).all()


def stored(folder: Path, tensors: dict[str, torch.Tensor]) -> tuple[Store, Result]:
    store = Store(folder)
    return store, store.put(evasion("evasion.pgd", 1, LINF, {}), tensors)


def test_missing_evidence_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    store, result = stored(
        tmp_path, {"gallery_x": torch.zeros(1, 1, 2, 2), "gallery_adv": torch.ones(1, 1, 2, 2)}
    )
    (store.results / result.evidence[0]).unlink()
    found, missing = galleries(store, [result], [], ())
    assert not found
    assert missing == {result.key: f"The evidence file {result.evidence[0]} is missing."}


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_damaged_evidence_is_a_reason_and_no_crash(tmp_path: Path, content: bytes) -> None:
    store, result = stored(
        tmp_path, {"gallery_x": torch.zeros(1, 1, 2, 2), "gallery_adv": torch.ones(1, 1, 2, 2)}
    )
    (store.results / result.evidence[0]).write_bytes(content)
    assert galleries(store, [result], [], ())[1] == {
        result.key: f"The evidence file {result.evidence[0]} is damaged."
    }


def test_evidence_without_examples_has_no_gallery_and_no_complaint(tmp_path: Path) -> None:
    store, result = stored(tmp_path, {"scores": torch.zeros(4)})
    assert galleries(store, [result], [], ()) == ({}, {})


def test_evidence_of_tables_is_drawn_as_strips(tmp_path: Path) -> None:
    store, result = stored(tmp_path, {"gallery_x": torch.zeros(2, 30), "gallery_adv": torch.ones(2, 30)})
    ((made,),) = galleries(store, [result], [], ())[0].values()
    assert made.form == "strip"
    assert "the 30 values of one input" in made.note


def test_changed_training_rows_stand_behind_the_inputs_it_is_shown_on(tmp_path: Path) -> None:
    x = {f"{kind}_{part}": torch.full((1, 1, 2, 2), value) for kind, part, value in PAIRS}
    labels = {"gallery_y": 1, "gallery_pred": 0, "planted_y": 1, "planted_pred": 0}
    store, result = stored(tmp_path, x | {name: torch.tensor([v]) for name, v in labels.items()})
    ((shown, planted),) = galleries(store, [result], [], ("cat", "dog"))[0].values()
    assert (shown.heading, shown.pictures[0].after) == ("", "read as cat")
    assert (planted.heading, planted.labels) == ("Training rows that were changed", ("original", "poisoned"))
    assert planted.pictures[0].after == "trained as cat"
    assert (pixels(planted.pictures[0].clean_png) == 51).all()


def test_examples_that_do_not_fit_together_are_not_drawn(tmp_path: Path) -> None:
    x = {f"{kind}_{part}": torch.full((1, 1, 2, 2), value) for kind, part, value in PAIRS}
    for lost in ({"planted_x": torch.zeros(2, 1, 2, 2)}, {"gallery_adv": torch.zeros(1, 4)}):
        store, result = stored(tmp_path, x | lost)
        assert galleries(store, [result], [], ())[1] == {
            result.key: "The examples in the evidence do not fit together, so they are not drawn."
        }
