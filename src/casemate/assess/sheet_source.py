"""Where the pictures to be printed come from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from casemate.assess.pictures import read_folder
from casemate.assess.store import Store
from casemate.core.errors import UsageError

FAMILIES = ("physical", "evasion")  # whose examples are printed, in this order


@dataclass(frozen=True)
class Pairs:
    """Originals x and adversarial pictures x_adv, (N, 1 or 3, H, W) in [0, 1], with classes y (N,)."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    classes: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.x.dim() != 4 or self.x.shape[1] not in (1, 3):
            raise UsageError(
                f"Only pictures in grey or colour can be printed. Got inputs of shape {tuple(self.x.shape[1:])}."
            )
        if self.x.shape != self.x_adv.shape or len(self.x) != len(self.y) or not len(self.y):
            raise UsageError(
                "Every original must have one adversarial picture and one label. Got "
                f"{tuple(self.x.shape)}, {tuple(self.x_adv.shape)} and {len(self.y)} labels."
            )

    def first(self, count: int) -> "Pairs":
        """The first pairs."""
        return Pairs(self.x[:count], self.x_adv[:count], self.y[:count], self.classes, self.names)


def read_pairs(source: Path, method: str | None = None) -> Pairs:
    """Read pairs of pictures.

    Args:
        source: folder of an assessment, a folder with `clean/CLASS/*.png` and
            `adversarial/CLASS/*.png`, or an .npz file with `x`, `x_adv` and `y`.
        method: of an assessment, the method whose examples are wanted; None means all that attack
            pictures, physical ones first.

    Returns:
        The pairs.

    Raises:
        UsageError: there are none, or they do not fit together.
    """
    if (source / "assessment.json").is_file():
        return _of_assessment(source, method)
    if source.is_dir():
        return _of_folder(source)
    return _of_arrays(source)


def _of_assessment(folder: Path, method: str | None) -> Pairs:
    store = Store(folder)
    told = store.assessment()
    results = [
        r for r in store.all()
        if r.status == "done" and r.case.family in FAMILIES and method in (None, r.case.method)
    ]  # fmt: skip
    results.sort(key=lambda r: FAMILIES.index(r.case.family))
    parts = [t for r in results if len((t := store.tensors(r)).get("gallery_x", ())) and "gallery_y" in t]
    if not parts:
        what = f"of {method}" if method else "of attacks on pictures"
        raise UsageError(f"The assessment must hold examples {what}. {folder} holds none.")
    x, x_adv, y = (torch.cat([t[name] for t in parts]) for name in ("gallery_x", "gallery_adv", "gallery_y"))
    return Pairs(x, x_adv, y, told.classes, told.names)


def _of_folder(folder: Path) -> Pairs:
    kinds = [folder / "clean", folder / "adversarial"]
    if not all(kind.is_dir() for kind in kinds):
        raise UsageError(
            f"The folder must hold an assessment, or folders 'clean' and 'adversarial' of pictures. Got {folder}."
        )
    (clean, names), (adversarial, others) = (read_folder(kind) for kind in kinds)
    (x, y), (x_adv, y_adv) = clean["test"], adversarial["test"]
    if names != others or not np.array_equal(y, y_adv):
        raise UsageError(f"The folders 'clean' and 'adversarial' in {folder} must hold the same pictures.")
    first, second = (torch.from_numpy(part).float() / 255 for part in (x, x_adv))
    return Pairs(first, second, torch.from_numpy(y).long(), len(names), names)


def _of_arrays(path: Path) -> Pairs:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("x", "x_adv", "y")}
    except OSError as error:
        raise UsageError(
            f"The pictures {path} cannot be read: {error.strerror or 'not an .npz file'}."
        ) from None
    except (ValueError, KeyError, EOFError, AttributeError, TypeError):
        raise UsageError(
            f"The pictures must be an .npz file with 'x', 'x_adv' and 'y', a folder, or an assessment. Got {path}."
        ) from None
    x, x_adv = (
        torch.from_numpy(v).float() / (255 if v.dtype == np.uint8 else 1)
        for v in (found["x"], found["x_adv"])
    )
    y = torch.from_numpy(found["y"]).long()
    if not bool(((x >= 0) & (x <= 1)).all() & ((x_adv >= 0) & (x_adv <= 1)).all()):
        raise UsageError(f"The pictures in {path} must have values in [0, 1], or 8 bits.")
    return Pairs(x, x_adv, y, int(y.max()) + 1 if len(y) else 0)
