"""casemate prove: run methods on their reference scenes."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from casemate.core.errors import UsageError

if TYPE_CHECKING:
    from casemate.assess.prove import Proof


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

    found: list[Proof] = []
    try:
        with watching() as progress:
            for proof in library.prove(names or (), seeds=seeds or (0,), workers=workers, progress=progress):
                found.append(proof)  # one by one: an interruption leaves what is done
    except KeyboardInterrupt:
        _print(found, as_json)
        raise
    _print(found, as_json)
    return 0 if all(proof.holds for proof in found) else 1


def _print(found: "list[Proof]", as_json: bool) -> None:
    if as_json:
        print(json.dumps([proof.model_dump(mode="json") for proof in found], indent=1))
    else:
        from casemate.cli.tables import print_proofs

        print_proofs(found)
