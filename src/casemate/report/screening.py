"""The page of screened training data: one file that opens without a network."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from casemate.assess.screen import Screened
from casemate.core.errors import UsageError
from casemate.report import gallery
from casemate.report.html import data as address
from casemate.report.png import png

MOST = 200  # pictures on the page
# share of the rows of clean data that is suspicious, as measured with the default settings
CLEAN = "about 5% of clean rows are, on ten classes of clothing; this is not calibrated on your data"
WELL = 0.7  # share of the rows that the net must give their label for no warning; a guess, not measured
# what each screening looks at, in a sentence
ABOUT = {
    "screening.strip": "Lays other rows over each row: what still gets its class under all of them may carry a trigger.",
    "screening.activation_clustering": "Cuts what the net sees in each class into two: a smaller part that lies far "
    "apart may be poison.",
    "screening.spectral": "Looks along the main direction in which the rows of a class differ: what lies furthest out "
    "may be poison.",
    "screening.high_loss": "Asks nets that have not seen the row: a label that they find unlikely may be wrong.",
    "screening.deep_knn": "Asks the rows that look most alike to the net: where most have another label, this one may "
    "be wrong.",
}
HALF = (
    "Activation clustering and spectral signatures take the smaller part of a class for poison: where half of a class "
    "or more is poison, they see nothing."
)
BLIND = "backdoors were not looked for, since no screening that does fits these data"


def check(out: Path) -> None:
    """Raise UsageError if files could not be written into a folder, which need not be there yet."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"--out must be a folder. Got '{out}', and {there.name} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out must be a folder that can be written. Got '{out}'.")


def written(found: Screened, out: Path) -> list[Path]:
    """Write screen.html and screen.json into a folder; raises UsageError if that cannot be done."""
    page, numbers = out / "screen.html", out / "screen.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        numbers.write_text(json.dumps(as_json(found), indent=1), encoding="utf-8")
        page.write_text(html(found), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.") from None
    return [page, numbers]


def as_json(found: Screened) -> dict[str, object]:
    """Say everything in numbers: of each suspicious row its label, its scores and what raised it."""
    return {
        "data": found.name,
        "rows": len(found.data),
        "share_suspicious": found.share,
        "on_clean_data": CLEAN,
        "fit_of_the_net": found.fit,
        "seeks_backdoors": found.seeks_backdoors,
        "screenings": {name: int((scores > 1).sum()) for name, scores in found.scores.items()},
        "left_out": found.left_out,
        "suspicious": [
            {
                "row": row,
                "label": int(found.data.y[row]),
                "scores": {name: round(float(scores[row]), 4) for name, scores in found.scores.items()},
                "raised_by": found.raised(row),
            }
            for row in found.suspicious
        ],
    }


def fit(found: Screened) -> str:
    """Say how well the net that screenings ask knows the rows."""
    known = f"The net that rows are judged by gives {found.fit:.0%} of them their own label"
    return known + (
        "."
        if found.fit >= WELL
        else ", so the answers are weak: it has learnt little (raise --epochs), or many labels are wrong."
    )


def first(found: Screened) -> str:
    """Say in which class suspicious rows are densest, as poison for one class would be."""
    y, bad = found.data.y, found.data.y[found.suspicious]
    if not len(bad):
        return "No row is to be looked at first."
    of, hit = (torch.bincount(labels, minlength=found.data.classes).double() for labels in (y, bad))
    densest = int((hit / of.clamp(min=1)).argmax())
    others = float(hit.sum() - hit[densest]) / max(1.0, float(of.sum() - of[densest]))
    return (
        f"Look first at '{_named(found, densest)}': {int(hit[densest])} of its {int(of[densest])} rows are suspicious, "
        f"{hit[densest] / of[densest]:.1%}, beside {others:.1%} of all others. Poison for one class gathers in it; so do "
        "false alarms in a class that is like many others or shows through them, so look at the pictures."
    )


def html(found: Screened) -> str:
    """Fill the page; style and pictures are inside, and every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("casemate.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    assert environment.loader is not None
    shown = found.suspicious[:MOST]
    return environment.get_template("screen.html.j2").render(
        found=found,
        clean=CLEAN,
        blind=BLIND,
        about=ABOUT,
        half=HALF,
        fit=fit(found),
        first=first(found),
        counts=[(name, int((scores > 1).sum())) for name, scores in found.scores.items()],
        classes=by_class(found),
        cards=[
            (row, label(found, row), ", ".join(found.raised(row)), picture)
            for row, picture in zip(shown, _pictures(found, shown), strict=True)
        ],
        style=environment.loader.get_source(environment, "report.css")[0],
    )


def by_class(found: Screened) -> list[tuple[str, int, int]]:
    """Count the rows of each class, and the suspicious ones, the class with most of these first."""
    bad = found.data.y[found.suspicious]
    counts = [(int((found.data.y == c).sum()), int((bad == c).sum())) for c in range(found.data.classes)]
    order = sorted(range(found.data.classes), key=lambda c: -counts[c][1])
    return [(_named(found, c), *counts[c]) for c in order]


def label(found: Screened, row: int) -> str:
    """Name the class that a row is labelled with."""
    return _named(found, int(found.data.y[row]))


def _named(found: Screened, c: int) -> str:
    return found.data.names[c] if found.data.names else f"class {c}"


def _pictures(found: Screened, rows: list[int]) -> list[str]:
    """Draw rows as the report draws inputs; empty texts where inputs cannot be drawn."""
    x: np.ndarray = found.data.x[rows].cpu().numpy().astype(np.float64)
    if not len(rows) or not 2 <= x.ndim <= 4:
        return [""] * len(rows)
    return [address(png(pixels)) for pixels in gallery.to_pixels(x, gallery.block_of(x.shape))]
