"""casemate harden: defend a target where it falls, or mend one that a scan called backdoored."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.cli.words import Interrupted

if TYPE_CHECKING:
    from casemate.assess.mend import Mended


def command(
    out: Annotated[
        Path, typer.Argument(help="Folder of a finished assessment or scan; the later one counts.")
    ],
    defence: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A defence by any of its names; without it the best is chosen."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the training; without it the assessment's.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train models; default one per core.")
    ] = None,
) -> int:
    """Train a defence or mend a backdoored model, attack or scan again, write before and after."""
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate import library
    from casemate.assess.mend import is_scan, mend
    from casemate.cli.progress import watching
    from casemate.cli.tables import print_defences, print_verdicts
    from casemate.report import mending

    folder = out / "hardened"
    if is_scan(out):
        try:
            with watching() as progress:
                mended = mend(out=out, defence=defence, seed=seed, progress=progress)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; finished repairs are kept in {folder}, but for those that prune. "
                "The same command goes on from there."
            ) from None
        page = mending.written(mended, folder)[0]
        _print(mended)
        print(f"Page: {page}")
        return 0
    try:
        with watching() as progress:
            found = library.harden(out=out, defence=defence, seed=seed, workers=workers, progress=progress)
            written = [*library.report(folder), *library.report(out)]
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; finished cases are kept in {folder}. The same command goes on from there."
        ) from None
    print_defences(found)
    print_verdicts(found)
    print(f"Report: {written[0]}")
    return 0


def _print(mended: "Mended") -> None:
    from rich.table import Table

    from casemate.cli.console import console
    from casemate.report.mending import HEADINGS, rows, sentences

    screen = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in HEADINGS:
        table.add_column(title)
    for row in rows(mended):
        table.add_row(*row)
    screen.print(table)
    for sentence in sentences(mended):
        screen.print(sentence, markup=False)
