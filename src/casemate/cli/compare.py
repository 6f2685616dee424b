"""casemate compare: two assessments side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    before: Annotated[Path, typer.Argument(metavar="OUT1", help="Folder of the first assessment.")],
    after: Annotated[Path, typer.Argument(metavar="OUT2", help="Folder of the second.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare two assessments, with a test for each difference."""
    from dataclasses import asdict

    from casemate import library
    from casemate.assess.compare import unmatched
    from casemate.cli.tables import print_differences

    found = library.compare(before, after)
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    else:
        print_differences(found)
        for title, side in unmatched(before, after):
            print(f"Not compared: {title}: measured only {side}")
    return 0
