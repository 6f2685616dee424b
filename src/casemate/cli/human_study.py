"""casemate human-study: show adversarial pictures to people for a moment, and score their answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casemate.assess.study import Scored

app = typer.Typer(help="Show adversarial pictures to people for a moment, and score what they saw.")


@app.command("make")
def make(
    source: Annotated[
        str,
        typer.Argument(metavar="RESULTS|builtin", help="Folder of an assessment of pictures, or 'builtin'."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the page into.")],
    count: Annotated[int, typer.Option(min=4, help="Most pictures to show.")] = 80,
    exposure: Annotated[float, typer.Option(min=8, max=2000, help="Time on screen, in milliseconds.")] = 66.7,
    limit: Annotated[float, typer.Option(min=200, help="Time for an answer, in milliseconds.")] = 2200,
    seed: Annotated[int, typer.Option(help="Chooses pictures and wrong answers.")] = 0,
    surrogates: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Nets, trained for the purpose, that pictures of the built-in data must all fool "
            "beside the built-in target: some of mlp, patches, resnet, strided, vgg.",
        ),
    ] = "mlp,patches,resnet,strided",
) -> int:
    """Write one page that shows each person every condition equally often; it needs no network."""
    from casemate.assess.stimuli import stimuli
    from casemate.report.human_study import write_page

    shown = stimuli(source, count, seed, [name.strip() for name in surrogates.split(",")])
    found = shown.stimuli
    # whole rounds of the four conditions, so that they stay balanced
    kept = found[: len(found) // 4 * 4] or found
    print(f"{shown.origin}; {len(kept)} are shown")
    print(write_page(kept, out, exposure=exposure, limit=limit, seed=seed, origin=shown.origin))
    return 0


@app.command("score")
def score(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="JSON files that participants saved.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare the conditions within participants: shares, exact tests, power."""
    from casemate.assess import study

    found = study.score(study.read_sessions(files))
    if as_json:
        print(study.as_json(found))
    else:
        _print(found)
    return 0


def _print(found: "Scored") -> None:
    from rich.table import Table

    from casemate.cli.console import console

    seen = f"; shown for {found.exposure_ms:.1f} ms (median)" if found.exposure_ms is not None else ""
    screen = console()
    screen.print(
        f"{found.participants} participants, {found.trials} trials, {found.late} without an answer{seen}"
    )
    shares = Table("Answers", "share", "95% interval", "n")
    for name, e in found.shares.items():
        shares.add_row(name, f"{e.value:.1%}", f"{e.low:.1%} to {e.high:.1%}", str(e.n))
    screen.print(shares)
    effects = Table(
        "Within participants",
        "points",
        "95% interval",
        "+ / -",
        "sign p",
        "permutation p",
        "power",
        "n for 80%",
    )
    for each in found.effects:
        d = each.difference
        effects.add_row(
            each.name, f"{100 * d.value:.1f}", f"{100 * d.low:.1f} to {100 * d.high:.1f}", f"{each.better} / {each.worse}",
            f"{each.sign_p:.3g}", f"{each.permutation_p:.3g}", f"{each.power:.0%}", str(each.needed or "> 5000"),
        )  # fmt: skip
    screen.print(effects)
