"""casemate screen: which rows of a training set are suspicious."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.words import pair

if TYPE_CHECKING:
    from casemate.assess.screen import Screened

SHOWN = 15


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="npz:FILE, folder:DIR, hf:NAME, builtin:NAME or file.py:function; its training part.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write screen.html and screen.json into.")] = Path(
        "out"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: row numbers, scores, what raised each.")
    ] = False,
    fail_above: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Exit with 1 if a larger share of the rows is suspicious."
        ),
    ] = None,
    bounds: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Values of float inputs for black and white; default 0,1."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Passes of the training that rows are judged by; default 8, and more of fewer than 5,000 rows.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
) -> int:
    """Say which rows of a training set are suspicious, as poisoned ones would be."""
    box = pair("--bounds", bounds)
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate.assess.screen import screen
    from casemate.cli.progress import watching
    from casemate.report import screening

    screening.check(out)
    with watching() as progress:
        found = screen(data, bounds=box, epochs=epochs, seed=seed, progress=progress)
    page = screening.written(found, out)[0]
    if as_json:
        print(json.dumps(screening.as_json(found), indent=1))
    else:
        _print(found)
        print(f"Page: {page}")
    return int(fail_above is not None and found.share > fail_above)


def _print(found: "Screened") -> None:
    from rich.markup import escape
    from rich.table import Table

    from casemate.cli.console import console
    from casemate.report.screening import BLIND, CLEAN, by_class, first, fit, label

    screen = console()
    screen.print(
        f"{len(found.suspicious)} of {len(found.data)} rows are suspicious ({found.share:.1%}); {CLEAN}.",
        markup=False,
    )
    screen.print(first(found), markup=False)
    screen.print(fit(found), markup=False)
    hit = [f"{name}: {bad} of {count}" for name, count, bad in by_class(found) if bad][:5]
    if hit:
        screen.print(f"By label: {'; '.join(hit)}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Row", "Label", "Raised by"):
        table.add_column(title)
    for row in found.suspicious[:SHOWN]:
        table.add_row(str(row), escape(label(found, row)), ", ".join(found.raised(row)))
    if found.suspicious:
        screen.print(table)
    for name, why in found.left_out.items():
        screen.print(f"Not run: {name}: {why}", markup=False)
    if not found.seeks_backdoors:
        screen.print(f"Mind that {BLIND}.", markup=False)
