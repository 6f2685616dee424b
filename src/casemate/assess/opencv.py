"""OpenCV, which only the print-and-photograph kit needs."""

from typing import Any

from casemate.core.errors import UsageError


def opencv() -> Any:
    """Import OpenCV with its markers, or say how to get it."""
    try:
        import cv2
    except ImportError:
        raise UsageError(
            "Sheets and photographs need OpenCV: pip install 'casemate[physical]' (opencv-python-headless)."
        ) from None
    if not hasattr(cv2, "aruco"):
        raise UsageError("This OpenCV is built without markers (aruco): pip install opencv-python-headless.")
    return cv2


def dictionary() -> Any:
    """Give the dictionary of the markers, 1,000 of 5 x 5 squares."""
    aruco = opencv().aruco
    return aruco.getPredefinedDictionary(aruco.DICT_5X5_1000)
