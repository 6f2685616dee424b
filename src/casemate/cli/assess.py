"""casemate assess: attack the target."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from casemate.cli.words import Interrupted, numbers, pair
from casemate.core.errors import UsageError


def command(
    context: typer.Context,
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="Plan in TOML; without one a preset is used.")
    ] = None,
    preset: Annotated[
        Literal["quick", "standard", "thorough"] | None,
        typer.Option(help="What is tried; quick, the default, takes two to three minutes on two cores."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="The target: file.py:function, package.module:function, a .pt2, .onnx or TorchScript file, "
            "file.py:function+weights.safetensors, timm:NAME, hf:NAME or http(s)://ADDRESS; "
            "without it the built-in one.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Its data: npz:FILE, folder:DIR, hf:NAME, builtin:NAME or file.py:function."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder to write; finished cases in it are not run again.")
    ] = Path("out"),
    seed: Annotated[
        int | None, typer.Option(help="Seed of all random numbers; without it the plan's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Try only methods or threats of this pattern, such as 'evasion.*'; answers in OUT are kept.",
        ),
    ] = None,
    fail_on: Annotated[
        Literal["falls", "inconclusive"] | None,
        typer.Option(help="Exit with 1 if a threat has this outcome or a worse one."),
    ] = None,
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
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How models like the target are trained: file.py:function, or settings such as epochs=20,lr=0.001.",
        ),
    ] = None,
    eot: Annotated[
        int | None,
        typer.Option(
            min=1, help="Draws that each gradient of a random model is averaged over; default as found."
        ),
    ] = None,
    bpda: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Path of a layer that gradients go round, such as 'squeeze' or 'net.0', or 'auto'; may be repeated.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of test rows, instead of the plan's; poisoning and backdoors do not follow it.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train models; default one per core.")
    ] = None,
) -> int:
    """Attack a model; write OUT/results and OUT/report.html."""
    if plan is not None and preset is not None:
        raise UsageError("Give a plan or --preset, not both.")
    if plan is not None and plan.suffix != ".toml":
        raise UsageError(f"The plan must be a .toml file. Got {plan}.")
    box, means, deviations = pair("--bounds", bounds), numbers("--mean", mean), numbers("--std", std)
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate import library
    from casemate.cli.progress import watching
    from casemate.cli.tables import gate, print_verdicts

    try:
        with watching() as progress:
            found = library.assess(
                model, data, plan=plan or preset or "quick", out=out, seed=seed, device=device, only=only, rows=rows,
                recipe=recipe, workers=workers, bounds=box, mean=means, std=deviations, eot=eot, bpda=bpda,
                command=shlex.join(["casemate", *context.obj]), progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(_kept(out)) from None
    print_verdicts(found)
    print(f"Report: {out / 'report.html'}")
    return gate(found, fail_on)


def _kept(out: Path) -> str:
    count = len(list((out / "results").glob("*.json")))
    return f"stopped; {count} finished cases are kept in {out}. The same command goes on from there."
