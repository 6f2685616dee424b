"""casemate list: every method."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

if TYPE_CHECKING:
    from casemate.core.registry import Entry

ACCESS = {
    "GradientOracle": "gradients",
    "ScoreOracle": "scores",
    "LabelOracle": "labels",
    "Samples": "training data",
    "Recipe": "training",
    "Classifier": "model",
    "Workshop": "data, recipe",
}


def command(
    family: Annotated[
        Literal[
            "evasion",
            "universal",
            "semantic",
            "physical",
            "malware",
            "poisoning",
            "targeted",
            "backdoor",
            "membership",
            "training",
            "serving",
            "screening",
            "repair",
            "scanning",
        ]
        | None,
        typer.Argument(help="Only methods of this family."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List every method."""
    from casemate.core.registry import entries

    found = entries(family)
    if as_json:
        print(json.dumps([described(entry) for entry in found], indent=1))
        return 0
    from rich.table import Table

    from casemate.cli.console import console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Method", "Needs", "Norms", "What it does"):
        table.add_column(title, no_wrap=title == "Method")
    for entry in found:
        table.add_row(entry.id, ACCESS.get(entry.access.__name__, ""), " ".join(entry.norms), entry.summary)
    console().print(table)
    return 0


def described(entry: "Entry") -> dict[str, Any]:
    """Everything about a method that is known without running it, for JSON."""
    return {
        "id": entry.id,
        "family": entry.family,
        "name": entry.name,
        "access": ACCESS.get(entry.access.__name__, entry.access.__name__),
        "norms": list(entry.norms),
        "summary": entry.summary,
        "known_as": list(entry.known_as),
        "papers": [vars(paper) for paper in entry.papers],
        "parameters": parameters(entry),
        "version": entry.version,
        "module": entry.module,
    }


def parameters(entry: "Entry") -> list[dict[str, Any]]:
    """Name, type, default and help of each parameter."""
    fields = entry.params.model_fields
    return [
        {
            "name": name,
            "choices": _choices(field.annotation),
            "default": field.default
            if isinstance(field.default, bool | int | float | str | None)
            else str(field.default),
            "required": field.is_required(),
            "help": field.description or "",
        }
        for name, field in fields.items()
    ]


def _choices(annotation: Any) -> list[str]:
    """List the values that a parameter may take where they are words, as of `Literal["a", "b"] | None`."""
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if isinstance(word, str)]
    return [word for part in get_args(annotation) for word in _choices(part)]
