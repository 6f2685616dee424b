"""Build the built-in data set from the files of Fashion-MNIST, as in Debian's dataset-fashion-mnist.

    python scripts/build_fashion_mini.py FOLDER

FOLDER holds train-images-idx3-ubyte.gz and its three companions.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "src/casemate/builtin/fashion_mini.npz"
PER_CLASS = {"train": 500, "test": 200}


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the official images and labels of a part."""
    name = {"train": "train", "test": "t10k"}[part]
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as images:
        x = np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as labels:
        return x, np.frombuffer(labels.read(), np.uint8, offset=8)


def first(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first `count` rows of each class, in the given order."""
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:count] for c in range(10)]))
    return x[rows], y[rows]


def main(folder: Path) -> None:
    """Write the data set into the package."""
    arrays = {}
    for part, count in PER_CLASS.items():
        arrays[f"x_{part}"], arrays[f"y_{part}"] = first(*read(folder, part), count)
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT}: {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
