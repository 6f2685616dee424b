"""Drawing a sheet's pages."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from casemate.assess.opencv import dictionary, opencv
from casemate.assess.sheet import Crop, Marker, Sheet, unpacked
from casemate.core.errors import UsageError

DOTS = 12  # per mm: 305 dots per inch
MODULES = 7  # squares on a marker's side, its black frame included


def draw(sheet: Sheet, path: Path) -> None:
    """Write a sheet's pages as PDF; raises UsageError if that file cannot be written."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    try:
        # no date: the same sheet is the same file
        with PdfPages(
            path, metadata={"CreationDate": None, "Title": f"casemate sheet {sheet.digest[:12]}"}
        ) as pdf:
            for page in range(sheet.pages):
                figure = Figure(figsize=(sheet.width / 25.4, sheet.height / 25.4))
                axes = figure.add_axes((0, 0, 1, 1), xlim=(0, sheet.width), ylim=(sheet.height, 0))
                axes.axis("off")
                _page(axes, sheet, page)
                pdf.savefig(figure)
    except OSError as error:
        raise UsageError(f"The pages {path} cannot be written: {error.strerror}.") from None


def _page(axes: Any, sheet: Sheet, page: int) -> None:
    for marker in sheet.markers:
        if marker.page == page:
            _image(axes, _marker(marker), (marker.left, marker.top, marker.side, marker.side))
    for crop in sheet.crops:
        if crop.page == page:
            _image(axes, _enlarged(crop, sheet), (crop.left, crop.top, crop.width, crop.height))
            # the kind must be told by its place, not by reading: labels are small
            text = f"{crop.pair + 1} {'original' if crop.kind == 'clean' else 'changed'}: {sheet.label(crop.label)}"
            axes.text(crop.left, crop.top + crop.height + 3.5, text, fontsize=6)
    foot = f"casemate sheet {sheet.digest[:12]}, page {page + 1} of {sheet.pages}; print at 100%"
    axes.text(sheet.width / 2, sheet.height - 6, foot, fontsize=6, ha="center")


def _image(axes: Any, levels: np.ndarray, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    axes.imshow(
        levels, extent=(left, left + width, top + height, top), interpolation="none", cmap="gray", vmin=0,
        vmax=255, aspect="auto",
    )  # fmt: skip


def _marker(marker: Marker) -> np.ndarray:
    side = MODULES * math.ceil(marker.side * DOTS / MODULES)
    drawn: np.ndarray = opencv().aruco.generateImageMarker(dictionary(), marker.id, side)
    return drawn


def _enlarged(crop: Crop, sheet: Sheet) -> np.ndarray:
    """Repeat pixels, because viewers smooth what they enlarge themselves."""
    levels = np.rint(255 * unpacked(crop.png, sheet.shape)).astype(np.uint8)
    times = math.ceil(max(crop.width, crop.height) * DOTS / max(sheet.shape[1:]))
    large = levels.repeat(times, 1).repeat(times, 2)
    return large[0] if len(large) == 1 else np.moveaxis(large, 0, -1)
