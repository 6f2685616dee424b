"""casemate scan: does a finished model carry a backdoor."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from casemate.cli.words import numbers, pair

if TYPE_CHECKING:
    from casemate.assess.scan import Scanned

COLOURS = {"backdoored": "red", "no sign": "green", "inconclusive": "yellow"}


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="file.py:function, package.module:function, a .pt2, .onnx or TorchScript file, "
            "file.py:function+weights.safetensors, timm:NAME or hf:NAME.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="CLEAN",
            help="Clean labelled pictures, some hundred: npz:FILE, folder:DIR, hf:NAME, builtin:NAME or file.py:function.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write scan.html and scan.json into.")] = Path("out"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: the answer, and every number by class.")
    ] = False,
    fail_on: Annotated[
        Literal["backdoored", "inconclusive"],
        typer.Option(help="Exit with 1 on this outcome or a worse one."),
    ] = "backdoored",
    bounds: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Values that the model takes for black and white; default 0,1."
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Mean per channel that the model's inputs are freed of."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Deviation per channel that they are divided by.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
) -> int:
    """Say whether a finished model carries a backdoor."""
    box, means, deviations = pair("--bounds", bounds), numbers("--mean", mean), numbers("--std", std)
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate.assess.scan import scan
    from casemate.cli.progress import watching
    from casemate.report import scanning
    from casemate.report.screening import check

    check(out)
    with watching() as progress:
        found = scan(
            model, data, bounds=box, mean=means, std=deviations, device=device, seed=seed, progress=progress
        )
    page = scanning.written(found, out)[0]
    if as_json:
        print(json.dumps(scanning.as_json(found), indent=1))
    else:
        _print(found)
        print(f"Page: {page}")
    bad = ("backdoored",) if fail_on == "backdoored" else ("backdoored", "inconclusive")
    return int(found.outcome in bad)


def _print(found: "Scanned") -> None:
    from rich.markup import escape
    from rich.table import Table

    from casemate.cli.console import console
    from casemate.report.scan_words import action, answer, meaning, rates
    from casemate.report.scanning import headings, table

    screen = console()
    colour = COLOURS[found.outcome]
    screen.print(f"[{colour}]{escape(answer(found))}[/{colour}]")
    screen.print(meaning(found, repaired=False), markup=False)
    screen.print(action(found, repaired=False), markup=False)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in headings(found):
        shown.add_column(escape(title))
    for row in table(found):
        shown.add_row(*map(escape, row))
    screen.print(shown)
    for name, why in found.found.left_out.items():
        screen.print(f"Not run: {name}: {why}", markup=False)
    screen.print(rates(found), markup=False)
