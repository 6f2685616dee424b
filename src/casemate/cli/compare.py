"""casemate compare: two assessments side by side."""

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def command(
    before: Annotated[Path, typer.Argument(metavar="OUT1", help="Folder of the first assessment.")],
    after: Annotated[Path, typer.Argument(metavar="OUT2", help="Folder of the second.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_on: Annotated[
        Literal["worse", "falls", "inconclusive"] | None,
        typer.Option(
            help="Exit with 1 if something is clearly worse in the second, or if there a threat has this outcome or a "
            "worse one."
        ),
    ] = None,
) -> int:
    """Compare two assessments, with a test for each difference."""
    from dataclasses import asdict

    from casemate import library
    from casemate.assess.compare import unmatched
    from casemate.cli.tables import gate_differences, print_differences

    found, alone = library.compare(before, after), unmatched(before, after)
    if as_json:
        print(json.dumps([_finite(asdict(row)) for row in found], indent=1))
    else:
        print_differences(found)
        for title, side in alone:
            print(f"Not compared: {title}: measured only {side}")
    # what a program reads stays JSON alone
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        return gate_differences(found, library.read(after), fail_on, [title for title, _ in alone])


def _finite(value: Any) -> Any:
    """Put null for what is not a number, which JSON cannot write."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
