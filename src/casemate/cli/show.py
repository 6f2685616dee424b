"""casemate show: one method."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casemate.core.registry import Entry

THREATS = {
    "evasion": "The adversary changes an input, within a budget, so that the model errs on it.",
    "universal": "The adversary learns one change, within a budget, that makes the model err on inputs never seen.",
    "semantic": "The adversary makes an input of the same meaning, however far away, on which the model errs.",
    "physical": "The adversary changes a picture so that the model errs on photographs of its print.",
    "malware": "The adversary changes a program, which must still work, so that a detector lets it pass.",
    "poisoning": "The adversary changes a share of the training rows, so that the trained model errs.",
    "targeted": "The adversary changes a few training rows, not their labels, so that one input gets the class they want.",
    "backdoor": "The adversary changes a share of the training rows, so that inputs with a trigger get the class they want.",
    "membership": "The adversary asks the model about a record, to find out whether it was trained on.",
    "training": "A defence: it changes how the model is trained.",
    "serving": "A defence: it changes how a finished model answers.",
    "screening": "A defence: it looks for poisoned rows before the model is trained on what is left.",
    "repair": "A defence: it mends a trained model with a little clean data.",
    "scanning": "A defence: it looks for a backdoor in a finished model, with a little clean data.",
}
SUPPLIER = "The adversary supplies a finished model, in which inputs with a trigger get the class they want."
SEES = {
    "GradientOracle": "They know the model and its gradients (white box).",
    "ScoreOracle": "They see the model's scores for any input they send (black box).",
    "LabelOracle": "They see only the model's decisions (black box).",
}


def command(
    name: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="A method by its id or any name it is known by.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show one method: threat model, parameters, papers."""
    from casemate.core.registry import find

    entry = find(name)
    if as_json:
        from casemate.cli.list import described

        print(json.dumps({**described(entry), "defences": defences(entry)}, indent=1))
        return 0
    _print(entry)
    return 0


def defences(entry: "Entry") -> list[str]:
    """List the ids of the defences that answer this attack."""
    from casemate.core.registry import ANSWERS, entries

    return [e.id for kind in ANSWERS for e in entries(kind) if entry.family in e.answers]


def _print(entry: "Entry") -> None:
    from rich.padding import Padding
    from rich.table import Table

    from casemate.cli.console import console
    from casemate.cli.list import parameters
    from casemate.core.registry import ANSWERS
    from casemate.report.words import NORMS, prose, setting

    out = console()
    also = f", also known as {', '.join(entry.known_as)}" if entry.known_as else ""
    out.print(f"{entry.id}{also}\n", markup=False)
    out.print(entry.summary, markup=False)
    if entry.details:
        out.print(f"\n{entry.details}", markup=False)
    supplied = entry.family == "backdoor" and entry.access.__name__ == "Classifier"
    threat = SUPPLIER if supplied else THREATS[entry.family]
    out.print(f"\nThreat model: {threat} {SEES.get(entry.access.__name__, '')}", markup=False)
    if entry.norms:
        out.print(f"Norms: {', '.join(NORMS[n] for n in entry.norms)}", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    for parameter in parameters(entry):
        default = "required" if parameter["required"] else setting(parameter["default"], parameter["name"])
        words = f" One of: {', '.join(map(repr, parameter['choices']))}." if parameter["choices"] else ""
        table.add_row(parameter["name"], default, prose(parameter["help"]) + words)
    out.print("\nParameters, with their defaults:" if table.row_count else "\nIt has no parameters.")
    if table.row_count:
        out.print(table)
    out.print("\nPapers:")
    for paper in entry.papers:
        out.print(Padding(paper.citation, (0, 0, 0, 2)), markup=False)
    against = defences(entry)
    if entry.family not in ANSWERS:
        out.print(
            f"\nDefences against attacks of this family, not all of which help here: {', '.join(against) or 'none'}",
            markup=False,
        )
