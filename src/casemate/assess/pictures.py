"""Folders of pictures by class, as torchvision and many others keep them."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from casemate.core.errors import UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")


def read_folder(folder: Path) -> tuple[dict[str, tuple[Any, Any]], tuple[str, ...]]:
    """Read `train/CLASS/*.png` and `test/CLASS/*.png`, or `CLASS/*.png` alone as test data.

    Classes are numbered by name, or by their line in a file `classes.txt`. Returns inputs and labels
    by part, and the names of the classes. Raises UsageError if there is no such folder, nothing in
    it, or pictures of several sizes.
    """
    if not folder.is_dir():
        raise UsageError(f"The folder of 'folder:{folder}' does not exist.")
    train, test = _child(folder, TRAIN), _child(folder, TEST)
    if train is not None and test is None:
        raise UsageError(f"The folder {folder} must have a part 'test' beside 'train'.")
    test = test or folder
    names = _names(folder, test)
    found = {"test": _read_part(test, names)}
    if train is not None:
        found["train"] = _read_part(train, names)
    sizes = {x.shape[1:] for x, _ in found.values()}
    if len(sizes) > 1:
        raise UsageError(
            f"All pictures in {folder} must have one size and the same channels. Got {sorted(sizes)}."
        )
    return found, names


def _child(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / n for n in names if (folder / n).is_dir()), None)


def _names(folder: Path, test: Path) -> tuple[str, ...]:
    listed = folder / "classes.txt"
    there = tuple(sorted(p.name for p in test.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not there:
        raise UsageError(f"The folder {test} must hold one folder of pictures per class. It holds none.")
    if not listed.is_file():
        return there
    names = tuple(line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
    unknown = sorted(set(there) - set(names))
    if unknown:
        raise UsageError(f"The file classes.txt must name every class. It lacks '{unknown[0]}'.")
    return names


def _read_part(folder: Path, names: Sequence[str]) -> tuple[Any, Any]:
    files, labels = [], []
    for number, name in enumerate(names):
        here = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in SUFFIXES)
        files += here
        labels += [number] * len(here)
    strangers = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in names)
    if strangers:
        raise UsageError(f"The folder {folder} has a class that the test part has not: '{strangers[0]}'.")
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise UsageError(
            f"The folder {folder} must hold pictures ({kinds}) in one folder per class. It holds none."
        )
    return stack(files, [str(f) for f in files]), np.array(labels)


def stack(pictures: Sequence[Any], titles: Sequence[str]) -> Any:
    """Stack pictures or picture files of one size into uint8 (N, C, H, W); C is 1 if all are grey."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError("Pictures need the package pillow: pip install pillow.") from None
    opened = []
    for picture, title in zip(pictures, titles, strict=True):
        try:
            with Image.open(picture) if isinstance(picture, Path) else nullcontext(picture) as image:
                opened.append(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"The picture {title} cannot be read: {error}.") from None
    mode = "L" if all(i.mode == "L" for i in opened) else "RGB"
    for image, title in zip(opened, titles, strict=True):
        if image.size != opened[0].size:
            (w0, h0), (w, h) = opened[0].size, image.size
            raise UsageError(
                f"All pictures must have one size. {titles[0]} is {w0}x{h0}, {title} is {w}x{h}."
            )
    array = np.stack([np.asarray(i.convert(mode)) for i in opened])
    return array[:, None] if mode == "L" else np.moveaxis(array, -1, 1)
