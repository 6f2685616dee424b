"""The report as Markdown: complete, in tables, without pictures."""

import re
from collections.abc import Iterable, Sequence

from casemate.report.model import CaseView, Number, VerdictView, View


def markdown(view: View) -> str:
    """Write the report; everything that came from outside is escaped."""
    parts = [f"# {_plain(view.title)}", _answers(view), _facts(view.facts)]
    parts += ["## Verdicts", _verdicts(view), *_tried(view.verdicts)]
    parts += ["## Sanity checks", _checks(view), *_hardening(view), *_curves(view)]
    parts += ["## Cases", *(part for case in view.cases for part in _case(case))]
    parts += ["## How to reproduce", _command(view.command), _facts(view.reproduce)]
    if view.references:
        parts += ["## Methods used", "\n".join(_references(view))]
    parts += ["## Words", "\n".join(f"- **{_plain(w.word)}**: {_plain(w.meaning)}" for w in view.words)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; cells are escaped, so that none can break out of it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell if i == 1 else _plain(cell) for cell in line) + " |"
        for i, line in enumerate(lines)
    )


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would read as markup, and keep everything on one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", text)


def _number(number: Number | None, prefix: str = "") -> str:
    return f"{prefix}{number.text} ({number.interval}, n = {number.n:,})" if number else ""


def _answers(view: View) -> str:
    return table(
        ("Question", "Outcome", "Answer"),
        ((a.question, f"{a.symbol} {a.word}", a.sentence) for a in view.answers),
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in facts)


def _verdicts(view: View) -> str:
    """Write the verdicts, worst first; cases without an answer stand above those that hold."""
    columns = ("Outcome", "Threat", "Measured", "Random baseline", "Clean", "Required", "Adversary", "Why")
    rows = [_verdict(verdict) for verdict in view.verdicts if verdict.outcome != "holds"]
    rows += [(f"! {t.kind.lower()}", t.name, "", "", "", "", "", t.reason) for t in view.troubles]
    rows += [_verdict(verdict) for verdict in view.verdicts if verdict.outcome == "holds"]
    return table(columns, rows) if rows else "Nothing was asked."


def _verdict(v: VerdictView) -> tuple[str, ...]:
    return (
        f"{v.symbol} {v.word}",
        v.title,
        f"{v.metric}: {_number(v.measured)}" if v.measured else "",
        _number(v.baseline),
        _number(v.clean, f"{v.clean_title} " if v.clean_title else ""),
        v.requirement,
        "; ".join(part for part in (v.budget, v.access) if part),
        v.why,
    )


def _tried(verdicts: Sequence[VerdictView]) -> list[str]:
    rows = [
        (v.title, "tried on what was left" if v.chained and i else "tried", t.name, _number(t.number))
        for v in verdicts
        for i, t in enumerate(v.tried)
    ]
    rows += [(v.title, "not tried", left.name, left.reason) for v in verdicts for left in v.not_tried]
    return (
        ["### What was tried, and what not", table(("Threat", "", "Method", "Result or reason"), rows)]
        if rows
        else []
    )


def _checks(view: View) -> str:
    if not view.checks:
        return "No check raised a doubt."
    rows = ((c.title, "; ".join(c.where), c.meaning, c.action, c.code) for c in view.checks)
    return table(("Doubt", "Where", "What it means", "What to do", "Code"), rows)


def _hardening(view: View) -> list[str]:
    found = view.hardening
    if found is None:
        return []
    rows = [(c.name, c.before, c.after, c.note) for c in (*found.threats, *found.price)]
    return [
        "## Before and after",
        f"Defence: {_plain(found.defence)}. {_plain(found.sentence)}",
        table(("", "Before", "After", "Reading"), rows),
        _facts(found.facts),
    ]


def _curves(view: View) -> list[str]:
    parts = ["## Curves"] if view.charts else []
    for chart in view.charts:
        parts += [f"### {_plain(chart.title)}", _plain(chart.caption), table(chart.columns, chart.rows)]
    return parts


def _case(case: CaseView) -> list[str]:
    facts = [
        ("Method", f"{case.method}: {case.summary}"),
        ("Status", f"{case.status}: {case.reason}" if case.reason else case.status),
        ("Adversary", "; ".join(part for part in (case.access, case.budget) if part)),
        ("Rows, seed", f"{case.rows:,} rows, seed {case.seed}"),
        ("Defences", ", ".join(case.defences)),
        ("Continues after", ", ".join(t.name for t in case.after)),
        *(case.cost if case.status == "done" else ()),
        ("Parameters", ", ".join(f"{s.name} {s.value}" for s in case.settings)),
        *case.notes,
        *((f"Doubt: {d.title}", " ".join((d.detail, d.meaning, d.action))) for d in case.doubts),
        ("Evidence", ", ".join(case.evidence)),
        *case.provenance,
        ("Key", case.key),
    ]
    rows = [(m.title, _number(m.attack), _number(m.baseline), _number(m.clean)) for m in case.metrics]
    return [
        f"### {_plain(case.label)}",
        table(("Metric", "Attack", "Random baseline", "Clean"), rows) if rows else "",
        _facts((name, value) for name, value in facts if value),
    ]


def _command(command: str) -> str:
    """Indent the command as code: there nothing is markup."""
    lines = command.splitlines()
    grew = "This folder grew over several commands, in this order:\n\n" if len(lines) > 1 else ""
    return grew + "\n".join(f"    {line}" for line in lines) or "The command was not recorded."


def _references(view: View) -> list[str]:
    return [
        f"{i}. {_plain(r.text)} {_plain(r.url)} ({_plain(', '.join(r.methods))})"
        for i, r in enumerate(view.references, 1)
    ]
