"""Finding a sheet's pictures in photographs of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casemate.assess.opencv import dictionary, opencv
from casemate.assess.sheet import Crop, Sheet
from casemate.core.errors import UsageError

FEWEST = 3  # markers of a page that must be seen: the corners of two may lie almost on a line
MOST_OFF = 0.02  # how far a marker's corner may lie from where the page says, in marker sides
FINEST = 16  # points per pixel of the model's input that a crop is read at, along each side


@dataclass(frozen=True)
class Found:
    """A page of a sheet in a photograph.

    `to_photo` (3, 3) takes mm on the page to pixels, whose centres are integers; `seen` of the page's
    markers were found, and `off` is the mean distance in pixels of their corners from where they
    should be.
    """

    page: int
    to_photo: np.ndarray
    seen: int
    off: float

    def corners(self, crop: Crop) -> np.ndarray:
        """Pixels (4, 2) at which a picture's corners lie: upper left, then clockwise."""
        right, bottom = crop.left + crop.width, crop.top + crop.height
        points = np.array([(crop.left, crop.top), (right, crop.top), (right, bottom), (crop.left, bottom)])
        return _mapped(self.to_photo, points)


def read_photograph(path: Path) -> np.ndarray:
    """Read a photograph as uint8 (H, W, 3) in red, green and blue, turned as the camera noted."""
    cv2 = opencv()
    try:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UsageError(f"The photograph {path} cannot be read: {error.strerror}.") from None
    try:
        picture = cv2.imdecode(raw, cv2.IMREAD_COLOR) if len(raw) else None
    except cv2.error:
        picture = None
    if picture is None:
        raise UsageError(f"The photograph must be a JPEG, PNG or other picture. {path} is none.")
    read: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return read


def locate(photo: np.ndarray, sheet: Sheet, name: str = "the photograph") -> list[Found]:
    """Find the pages of a sheet in a photograph (H, W, 3).

    Raises UsageError if no page shows enough markers, or if the markers are of another sheet.
    """
    cv2 = opencv()
    settings = cv2.aruco.DetectorParameters()
    settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    corners, ids, _ = cv2.aruco.ArucoDetector(dictionary(), settings).detectMarkers(grey)
    seen = (
        {} if ids is None else {int(i): c.reshape(4, 2) for i, c in zip(ids.flatten(), corners, strict=True)}
    )
    own = {m.id for m in sheet.markers}
    if not seen:
        raise UsageError(f"No markers are to be seen in {name}; take the whole page, sharp and evenly lit.")
    if not own & set(seen):
        raise UsageError(f"The markers in {name} are of another sheet, not of {sheet.digest[:12]}.")
    found = [page for number in range(sheet.pages) if (page := _fitted(number, sheet, seen, name))]
    if not found:
        raise UsageError(
            f"Only {len(own & set(seen))} of 6 markers are to be seen in {name}; {FEWEST} are needed. "
            "Take the whole page."
        )
    return found


def _fitted(page: int, sheet: Sheet, seen: dict[int, np.ndarray], name: str) -> Found | None:
    cv2 = opencv()
    markers = [m for m in sheet.markers if m.page == page and m.id in seen]
    if len(markers) < FEWEST:
        return None
    there = np.concatenate([seen[m.id] for m in markers]).astype(np.float64)
    places = np.concatenate(
        [
            m.side * np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) + np.array([m.left, m.top])
            for m in markers
        ]
    )  # fmt: skip
    to_photo, _ = cv2.findHomography(places, there)
    if to_photo is None:
        return None
    off = float(np.linalg.norm(_mapped(to_photo, places) - there, axis=1).mean())
    side = float(np.mean([np.linalg.norm(seen[m.id][0] - seen[m.id][1]) for m in markers]))
    if off > max(1.0, MOST_OFF * side):
        raise UsageError(
            f"The markers in {name} are not where the sheet has them ({off:.1f} pixels off): the page is bent, "
            "or it is another sheet."
        )
    return Found(page, to_photo, len(markers), off)


def cut(photo: np.ndarray, page: Found, crop: Crop, shape: tuple[int, int, int]) -> np.ndarray:
    """Cut a picture out of a photograph, straightened, as float32 (C, H, W) in [0, 1].

    Each value is the mean of the photograph over the area of its pixel on the page.
    """
    cv2 = opencv()
    channels, height, width = shape
    box = page.corners(crop)
    spans = np.linalg.norm(box - np.roll(box, 1, axis=0), axis=1)
    times = int(np.clip(np.ceil(spans.max() / max(height, width)), 1, FINEST))
    rows, columns = height * times, width * times
    # from the middle of a point of the crop to mm on the page
    x, y = crop.width / columns, crop.height / rows
    to_page = np.array([[x, 0, crop.left + x / 2], [0, y, crop.top + y / 2], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    fine = cv2.warpPerspective(
        photo, page.to_photo @ to_page, (columns, rows), flags=flags, borderMode=border
    )
    values = fine.astype(np.float32).reshape(height, times, width, times, 3).mean((1, 3)) / 255
    if channels == 1:
        grey: np.ndarray = values @ np.array([0.299, 0.587, 0.114], np.float32)
        return grey[None]
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def _mapped(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped: Any = np.concatenate([points, np.ones((len(points), 1))], 1) @ matrix.T
    result: np.ndarray = mapped[:, :2] / mapped[:, 2:]
    return result
