"""A sheet to print: pairs of pictures at known places between markers that a photograph shows."""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from casemate.assess.sheet_source import Pairs
from casemate.core.errors import UsageError

Paper = Literal["a4", "letter"]
PAPERS: dict[str, tuple[float, float]] = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}  # mm
MARGIN, MARKER, GAP, LABEL = 10.0, 14.0, 3.0, 9.0  # mm: page edge, marker side, within a pair, its title
MARKERS = 1000  # in the dictionary of 5 x 5 squares
Kind = Literal["clean", "adversarial"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Marker(_Frozen):
    """A marker of the dictionary on a page; its place is in mm from the upper left corner."""

    id: int
    page: int
    left: float
    top: float
    side: float


class Crop(_Frozen):
    """A picture on a page: which of a pair it is, its class, its place in mm and itself as PNG."""

    pair: int
    kind: Kind
    label: int
    page: int
    left: float
    top: float
    width: float
    height: float
    png: str


class Sheet(_Frozen):
    """What is where on the pages, and what was printed; kept beside the pages as `sheet.json`."""

    schema_version: Literal[1] = 1
    digest: str
    width: float
    height: float
    pages: int
    shape: tuple[int, int, int]
    classes: int
    names: tuple[str, ...] = ()
    markers: tuple[Marker, ...]
    crops: tuple[Crop, ...]

    def pictures(self) -> Tensor:
        """The printed files in the order of `crops`, (N, C, H, W) in [0, 1]."""
        return torch.from_numpy(np.stack([unpacked(c.png, self.shape) for c in self.crops]))

    def label(self, number: int) -> str:
        """Name of a class."""
        return self.names[number] if number < len(self.names) else f"class {number}"


def lay_out(pairs: Pairs, *, paper: Paper = "a4", side: float = 32.0) -> Sheet:
    """Place pairs of pictures and markers on pages.

    Args:
        pairs: what is printed, the original beside the adversarial picture.
        paper: size of the pages.
        side: longer side of a printed picture, in mm.

    Returns:
        The sheet.

    Raises:
        UsageError: a pair does not fit on a page, or there are more pages than markers.
    """
    width, height = PAPERS[paper]
    channels, tall, wide = pairs.x.shape[1:]
    across, down = side * wide / max(tall, wide), side * tall / max(tall, wide)
    first = MARGIN + MARKER + 2 * GAP
    columns = int((width - 2 * first + 3 * GAP) // (2 * across + 4 * GAP))
    rows = int((height - 2 * MARGIN) // (down + LABEL))
    if columns < 1 or rows < 1 or side < 5:
        raise UsageError(
            f"The side of a printed picture must be at least 5 mm and fit on {paper} twice. Got {side:g} mm."
        )
    pages = -(-len(pairs.y) // (columns * rows))
    digest = _digest(pairs, paper, side)
    start = int(digest[:8], 16) % (MARKERS - min(MARKERS - 1, 6 * pages))
    if 6 * pages > MARKERS:
        raise UsageError(
            f"A sheet must have at most {MARKERS // 6} pages. Got {pages}; print fewer pictures."
        )
    step = (width - 2 * first + 3 * GAP) / columns
    crops = []
    for i, label in enumerate(pairs.y.tolist()):
        page, place = divmod(i, columns * rows)
        row, column = divmod(place, columns)
        left, top = first + column * step, MARGIN + row * (down + LABEL)
        for kind, picture, x in (
            ("clean", pairs.x[i], left),
            ("adversarial", pairs.x_adv[i], left + across + GAP),
        ):
            crops.append(
                Crop(
                    pair=i, kind="clean" if kind == "clean" else "adversarial", label=label, page=page, left=x,
                    top=top, width=across, height=down, png=packed(picture),
                )
            )  # fmt: skip
    return Sheet(
        digest=digest, width=width, height=height, pages=pages, shape=(channels, tall, wide),
        classes=pairs.classes, names=pairs.names, markers=_markers(width, height, pages, start),
        crops=tuple(crops),
    )  # fmt: skip


def _markers(width: float, height: float, pages: int, start: int) -> tuple[Marker, ...]:
    """Six markers per page, in its corners and at the middles of its long sides."""
    right, bottom = width - MARGIN - MARKER, height - MARGIN - MARKER
    places = [(x, y) for y in (MARGIN, (height - MARKER) / 2, bottom) for x in (MARGIN, right)]
    return tuple(
        Marker(id=start + 6 * page + i, page=page, left=x, top=y, side=MARKER)
        for page in range(pages)
        for i, (x, y) in enumerate(places)
    )


def _digest(pairs: Pairs, paper: str, side: float) -> str:
    total = hashlib.sha256(f"{paper} {side} {tuple(pairs.x.shape)}".encode())
    for part in (pairs.x, pairs.x_adv):
        total.update((255 * part).round().byte().contiguous().numpy().tobytes())
    return total.hexdigest()


def packed(picture: Tensor) -> str:
    """Write a picture (C, H, W) in [0, 1] as PNG in base64."""
    from PIL import Image

    levels = (255 * picture).round().byte()
    file = io.BytesIO()
    Image.fromarray((levels[0] if len(levels) == 1 else levels.movedim(0, -1)).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unpacked(png: str, shape: Sequence[int]) -> np.ndarray:
    """Read what `packed` wrote, as float32 (C, H, W)."""
    from PIL import Image

    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).astype(np.float32) / 255
    return read[None] if shape[0] == 1 else np.ascontiguousarray(np.moveaxis(read, -1, 0))


def read_sheet(path: Path) -> Sheet:
    """Read `sheet.json`; raises UsageError if there is none or it is damaged."""
    try:
        return Sheet.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"The sheet {path} cannot be read: {error.strerror}.") from None
    except ValidationError:
        raise UsageError(
            f"The sheet must be the .json file that `casemate physical sheet` wrote. Got {path}."
        ) from None
