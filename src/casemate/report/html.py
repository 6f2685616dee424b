"""The report as one HTML file that opens without a network."""

import base64
import hashlib
import re
from typing import Any

from casemate.report import charts
from casemate.report.model import View

# families in the order of the three questions, with their headings
FAMILIES = (
    ("evasion", "Inputs that fool the model"),
    ("universal", "One change that fools the model on many inputs"),
    ("semantic", "Inputs that keep their meaning and fool the model"),
    ("physical", "Pictures that fool the model from paper"),
    ("malware", "Programs that a detector lets pass"),
    ("poisoning", "Poisoned training rows"),
    ("targeted", "Training rows changed for one input each"),
    ("backdoor", "Inputs with the backdoor's trigger"),
    ("membership", "Membership inference"),
)


def html(view: View) -> str:
    """Fill the page: style, pictures and charts are inside, and every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("casemate.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data"] = data
    script = _asset(environment, "report.js")
    page = environment.get_template("report.html.j2").render(
        view=view,
        style=_asset(environment, "report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        strips={v.threat: charts.strip(v, f"strip{i}") for i, v in enumerate(view.verdicts)},
        figures={chart.id: charts.svg(chart) for chart in view.charts},
        cases={case.key: case for case in view.cases},
        families=_families(view),
        changes=_changes(view),
        anchors={case.key: anchor(case.key) for case in view.cases},
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def _families(view: View) -> list[tuple[str, str]]:
    """Families of the report's cases with their headings, unknown ones last."""
    present = dict.fromkeys(case.family for case in view.cases)
    known = [(family, heading) for family, heading in FAMILIES if family in present]
    return known + [(family, family.capitalize()) for family in present if family not in dict(FAMILIES)]


def _changes(view: View) -> dict[str, list[tuple[str, str, str, str]]]:
    """Rows of the two tables of before and after."""
    found = view.hardening
    groups = {"threats": found.threats, "price": found.price} if found else {}
    return {name: [(c.name, c.before, c.after, c.note) for c in group] for name, group in groups.items()}


def data(png: bytes) -> str:
    """Write a picture as a data address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def anchor(key: str) -> str:
    """Name the place of a case in the page; keys come from files and may hold anything."""
    return "case-" + re.sub(r"[^A-Za-z0-9_-]", "-", key)


def _asset(environment: Any, name: str) -> str:
    text: str = environment.loader.get_source(environment, name)[0]
    return text
