"""Write the table of methods into README.md; with --check, only tell whether it is up to date."""

import sys
from pathlib import Path

from casemate.cli.list import ACCESS
from casemate.core.registry import Entry, entries

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- methods -->\n", "<!-- /methods -->\n"
FAMILIES = {
    "evasion": "Evasion: can it be fooled?",
    "universal": "Universal: can one change fool it on all inputs?",
    "semantic": "Semantic: can it be fooled by changes that keep the meaning?",
    "physical": "Physical: does what fools it survive print and camera?",
    "malware": "Malware: can a program hide from it and still work?",
    "poisoning": "Poisoning: can it be spoiled through its training data?",
    "targeted": "Targeted poisoning: can it be made to err on chosen inputs?",
    "backdoor": "Backdoors: can it be given a hidden trigger?",
    "membership": "Membership: does it tell who was in its training data?",
    "training": "Defences in training",
    "serving": "Defences in front of a model",
    "screening": "Defences that look for poisoned rows",
    "repair": "Defences that mend a trained model",
    "scanning": "Defences that look for a backdoor in a finished model",
}


def table() -> str:
    """Make one table for all families, from the registry."""
    lines = ["| method | needs | norms | what it does | source |", "|---|---|---|---|---|"]
    missing = {entry.family for entry in entries()} - set(FAMILIES)
    if missing:
        sys.exit(f"scripts/readme.py has no title for the families {', '.join(sorted(missing))}.")
    for family, title in FAMILIES.items():
        found = entries(family)
        if found:
            lines.append(f"| **{title}** | | | | |")
            lines += [row(entry) for entry in found]
    return "\n".join(lines) + "\n"


def row(entry: Entry) -> str:
    """Make the line of a method."""
    needs = ACCESS.get(entry.access.__name__, "")
    source = ", ".join(f"[{p.authors.split(',')[0]} {p.year}]({p.url})" for p in entry.papers[:1])
    return f"| `{entry.id}` | {needs} | {' '.join(entry.norms)} | {entry.summary} | {source} |"


def updated(text: str) -> str:
    """Put the table into the text."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = updated(old)
    if "--check" in sys.argv:
        sys.exit(0 if old == new else "README.md lacks the latest methods; run: make docs")
    README.write_text(new, encoding="utf-8")
