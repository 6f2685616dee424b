"""casemate physical: print adversarial pictures, photograph them, score the photographs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from casemate.cli.words import numbers, pair
from casemate.core.errors import UsageError

if TYPE_CHECKING:
    from casemate.assess.photo_score import Score

app = typer.Typer(help="Print adversarial pictures, photograph them and score the photographs.")


@app.command("sheet")
def sheet(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS|PICTURES",
            help="Folder of an assessment; or an .npz file with x, x_adv and y; or a folder with clean/CLASS/*.png "
            "and adversarial/CLASS/*.png.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="PDF to write; what is where goes beside it as .json.")] = Path(
        "sheet.pdf"
    ),
    paper: Annotated[Literal["a4", "letter"], typer.Option(help="Size of the pages.")] = "a4",
    side: Annotated[float, typer.Option(min=5, help="Longer side of a printed picture, in mm.")] = 32.0,
    count: Annotated[int, typer.Option(min=1, help="Most pairs of pictures to print.")] = 24,
    method: Annotated[
        str | None, typer.Option(help="Of an assessment, the method whose examples are printed.")
    ] = None,
) -> int:
    """Write a sheet of originals beside adversarial pictures, with markers, to be printed."""
    if out.suffix.lower() != ".pdf":
        raise UsageError(f"--out must be a .pdf file. Got {out}.")
    from casemate.assess.opencv import opencv
    from casemate.assess.sheet import lay_out
    from casemate.assess.sheet_pdf import draw
    from casemate.assess.sheet_source import read_pairs
    from casemate.core.registry import find

    opencv()
    pairs = read_pairs(source, find(method).id if method else None)
    made = lay_out(pairs.first(count), paper=paper, side=side)
    draw(made, out)
    beside = out.with_suffix(".json")
    try:
        beside.write_text(made.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{beside} cannot be written: {error.strerror}.") from None
    print(f"{out}: {len(made.crops) // 2} pairs on {made.pages} {'page' if made.pages == 1 else 'pages'}")
    print(f"{beside}: what is where; `casemate physical score` needs it")
    return 0


@app.command("score")
def score(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photographs of the pages.")],
    sheet: Annotated[Path, typer.Option(help="The sheet's .json file.")],
    model: Annotated[str, typer.Option(metavar="SPEC", help="The target, as for `casemate assess`.")] = (
        "builtin:fashion-cnn"
    ),
    bounds: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Values that the model takes for black and white.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Mean per channel that inputs are freed of.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Deviation per channel that they are divided by.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Find a sheet's pictures in photographs and tell what a model makes of them."""
    box, means, deviations = pair("--bounds", bounds), numbers("--mean", mean), numbers("--std", std)
    from casemate.assess.opencv import opencv
    from casemate.assess.photo_score import score as scored
    from casemate.assess.sheet import read_sheet

    opencv()
    printed = read_sheet(sheet)
    print("casemate: loading", file=sys.stderr, flush=True)
    import torch

    from casemate.assess.targets import load_model
    from casemate.core.data import Samples

    rows = Samples(printed.pictures(), torch.tensor([c.label for c in printed.crops]), printed.classes)
    target = load_model(model, rows, bounds=box, mean=means, std=deviations).classifier
    found = scored(photos, printed, target, model)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        _print(found)
    return 0


def _print(found: "Score") -> None:
    from rich.table import Table

    from casemate.cli.console import console
    from casemate.report.words import interval, number

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "Value", "95% interval", "n"):
        table.add_column(title, no_wrap=True)
    lines = {
        "Originals, accuracy of the files": found.accuracy["clean"],
        "Originals, accuracy in the photographs": found.accuracy_in_photos["clean"],
        "Adversarial, accuracy of the files": found.accuracy["adversarial"],
        "Adversarial, accuracy in the photographs": found.accuracy_in_photos["adversarial"],
        "Destruction rate": found.destruction_rate,
    }
    for title, value in lines.items():
        table.add_row(title, number(value.value), interval(value), str(value.n))
    console().print(f"Sheet {found.sheet}, {found.pictures} pictures in {found.photos} photographs")
    console().print(table)
