"""Colours can be read by everybody: contrast by WCAG 2.2, and kinds told apart with colour blindness."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import casemate.report

CSS = (Path(casemate.report.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
OUTCOMES = ("holds", "falls", "inconclusive", "not_tested")
SERIES = tuple(f"s{i}" for i in range(1, 7))
# linear-light simulations of Viénot, Brettel and Mollon 1999, with rows of sum one
BLIND = {
    "deuteranopia": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
    "protanopia": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
}


def theme(name: str) -> dict[str, str]:
    """Read the variables of a theme from the style sheet."""
    light, dark, printed = re.findall(r":root\s*{(.*?)}", CSS, flags=re.S)
    block = {"light": light, "dark": dark, "print": printed}[name]
    return dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", block))


def linear(colour: str) -> np.ndarray:
    levels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    a, b = (float(linear(c) @ np.array([0.2126, 0.7152, 0.0722])) + 0.05 for c in (one, other))
    return max(a, b) / min(a, b)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ rgb / np.array([0.9505, 1.0, 1.089]), 1e-4, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_text_has_enough_contrast(name: str) -> None:
    """4.5 to 1 for text of ordinary size, on the page and on panels."""
    colours = theme(name)
    for ink, ground in itertools.product(("ink", "soft", "link"), ("bg", "panel")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for outcome in OUTCOMES:
        on = colours.get(f"on-{outcome}", colours[outcome])
        assert contrast(on, colours[f"{outcome}-bg"]) >= 4.5, outcome


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_lines_have_enough_contrast(name: str) -> None:
    """3 to 1 for parts of pictures that carry meaning."""
    colours = theme(name)
    for series in SERIES:
        assert contrast(colours[series], colours["bg"]) >= 3, series


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("kind", list(BLIND))
def test_outcomes_differ_for_colour_blind_readers(name: str, kind: str) -> None:
    """At least 15 units of CIELAB between holds, falls and inconclusive, where about 2 can just be seen."""
    colours = theme(name)
    seen = {o: lab(BLIND[kind] @ linear(colours[o])) for o in OUTCOMES[:3]}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 15, (one, other)


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("kind", list(BLIND))
def test_the_first_lines_of_a_chart_differ_for_colour_blind_readers(name: str, kind: str) -> None:
    """Dash and marker tell all six apart; the first three, which most charts have, differ in colour as well."""
    colours = theme(name)
    seen = [lab(BLIND[kind] @ linear(colours[s])) for s in SERIES[:3]]
    for one, other in itertools.combinations(range(3), 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 15, (one, other)
