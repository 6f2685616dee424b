"""casemate report: write the report again."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """Forms of a report."""

    HTML = "html"
    MD = "md"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"


def command(
    out: Annotated[Path, typer.Argument(help="Folder of a finished assessment.")],
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Form of the report; give it several times for several. Default html."),
    ] = None,
) -> int:
    """Write the report again, or in another form."""
    from casemate import library

    for path in library.report(out, formats or [Format.HTML]):
        print(path)
    return 0
