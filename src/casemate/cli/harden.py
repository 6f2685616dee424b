"""casemate harden: defend a target where it falls."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from casemate.cli.words import Interrupted


def command(
    out: Annotated[Path, typer.Argument(help="Folder of a finished assessment.")],
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
    """Train a defence, attack again, write before and after."""
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate import library
    from casemate.cli.progress import watching
    from casemate.cli.tables import print_defences, print_verdicts

    folder = out / "hardened"
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
