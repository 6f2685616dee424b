"""casemate prove: run methods on their reference scenes."""

import json
import sys
from typing import Annotated

import typer

from casemate.core.errors import UsageError


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Methods, by any of their names.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Run every method.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: an array, one object per method and seed.")
    ] = False,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Seed; give it several times for several.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train models; default one per core.")
    ] = None,
) -> int:
    """Run methods on their reference scenes."""
    if bool(names) == everything:
        raise UsageError("Name the methods to prove, or give --all; `casemate list` names them.")
    print("casemate: loading", file=sys.stderr, flush=True)
    from casemate import library
    from casemate.cli.progress import watching

    with watching() as progress:
        found = list(library.prove(names or (), seeds=seeds or (0,), workers=workers, progress=progress))
    if as_json:
        print(json.dumps([proof.model_dump(mode="json") for proof in found], indent=1))
    else:
        from casemate.cli.tables import print_proofs

        print_proofs(found)
    return 0 if all(proof.holds for proof in found) else 1
