"""Read an assessment's folder and write the report into it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from casemate.assess.result import Assessment
from casemate.assess.store import Store
from casemate.core.errors import UsageError
from casemate.core.registry import entries
from casemate.report.gallery import galleries
from casemate.report.html import html
from casemate.report.junit import junit
from casemate.report.markdown import markdown
from casemate.report.model import View
from casemate.report.sarif import sarif
from casemate.report.view import Found, shown_first, view

HARDENED = "hardened"  # where `casemate harden` puts the assessment of the hardened target


def _json(shown: View) -> str:
    return shown.model_dump_json(indent=1) + "\n"


# format -> file name and writer
FORMATS: dict[str, tuple[str, Callable[[View], str]]] = {
    "html": ("report.html", html),
    "md": ("report.md", markdown),
    "json": ("report.json", _json),
    "sarif": ("report.sarif", sarif),
    "junit": ("report.junit.xml", junit),
}


def build(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write the report of an assessment into its folder.

    Missing or damaged results and evidence do not stop it; the report names them.

    Args:
        folder: output folder of `assess` or `harden`.
        formats: any of html, md, json, sarif, junit.

    Returns:
        The files written, in the order of `formats`.

    Raises:
        UsageError: there is no assessment in the folder, a format is unknown, or nothing can be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"The report format must be one of {', '.join(FORMATS)}. Got '{unknown[0]}'.")
    shown = view(gather(Path(folder)), {entry.id: entry for entry in entries()})
    written = []
    for name in dict.fromkeys(formats):
        file, write = FORMATS[name]
        path = Path(folder) / file
        _replace(path, write(shown))
        written.append(path)
    return written


def gather(folder: Path) -> Found:
    """Gather what the folder holds and note what is missing."""
    store = Store(folder)
    assessment = store.assessment()
    read = {key: store.get(key) for key in dict.fromkeys(assessment.keys)}
    results = [result for result in read.values() if result is not None]
    lost = [
        (key, store.doubt(key) or "its file is missing") for key, result in read.items() if result is None
    ]
    drawn, undrawn = galleries(store, results, shown_first(assessment, results), assessment.names)
    inner = folder / HARDENED
    return Found(
        assessment=assessment,
        results=results,
        lost=lost,
        galleries=drawn,
        undrawn=undrawn,
        before=_before(folder, assessment),
        after=f"{HARDENED}/report.html" if (inner / "assessment.json").is_file() else "",
    )


def _before(folder: Path, assessment: Assessment) -> Assessment | None:
    """Read what a hardened target was before; None where that cannot be read any more."""
    known: Any = assessment.price.get("before")
    if not isinstance(known, dict) or not known.get("folder"):
        return None
    try:
        return Store(folder / str(known["folder"])).assessment()
    except UsageError:
        return None


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, with the permissions of an ordinary file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    except OSError as error:
        raise UsageError(f"The report {path} cannot be written: {error.strerror}.") from None
    finally:
        beside.unlink(missing_ok=True)
