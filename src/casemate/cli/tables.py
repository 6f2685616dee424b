"""Tables that commands print."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from casemate.assess.result import Assessment, Outcome, Verdict
from casemate.cli.console import console
from casemate.ops.stats import Estimate
from casemate.report.flags import explain, reason
from casemate.report.words import OUTCOMES, Unit, duration, interval, metric, number, plural

if TYPE_CHECKING:
    from casemate.assess.compare import Difference
    from casemate.assess.prove import Number, Proof

COLOURS: dict[Outcome, str] = {
    "holds": "green",
    "falls": "red",
    "inconclusive": "yellow",
    "not_tested": "bright_black",
}


def print_verdicts(assessment: Assessment) -> None:
    """Print one row per threat: outcome, number with interval, baseline, clean; then what is doubtful."""
    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Threat", "Outcome", "Measured (95% interval)", "Random baseline", "Without attack"):
        table.add_column(title, justify="left")
    for verdict in assessment.verdicts:
        table.add_row(*_row(verdict))
    out.print()
    out.print(table)
    out.print()
    for verdict in assessment.verdicts:
        if verdict.outcome in ("falls", "inconclusive"):
            out.print(f"{verdict.title}: {OUTCOMES[verdict.outcome][0]}, {reason(verdict.why)}", markup=False)
    for method, why in [pair for verdict in assessment.verdicts for pair in verdict.not_tried]:
        known = why if why.startswith(method) else f"{method}: {why}"
        out.print(f"Not tried: {known}", markup=False)
    for flag in assessment.checks:
        title = explain(flag.code).title
        out.print(f"Note: {title}: {flag.detail}" if flag.detail else f"Note: {title}", markup=False)


def print_defences(assessment: Assessment) -> None:
    """Print the defences that were tried, as they were ranked, and name the recommended ones."""
    from casemate.report.hardening import ranking

    found, best = ranking(assessment.price), assessment.price.get("recommended", [])
    if not found:
        return
    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    for name, effect in found:
        table.add_row(escape(name), escape(effect))
    out.print("\nDefences tried, each under an attack that knows it:")
    out.print(table)
    if rows := assessment.price.get("compared_on"):
        out.print(f"Those against evasion were compared on {rows}.", markup=False)
    none = "none; no defence that was tried stands clearly better than the model does without one"
    out.print(f"Recommended: {', '.join(best) or none}", markup=False)


def _row(verdict: Verdict) -> tuple[str, ...]:
    words, sign = OUTCOMES[verdict.outcome]
    colour = COLOURS[verdict.outcome]
    outcome = f"[{colour}]{sign} {words}[/{colour}]"
    if verdict.measured is None:
        return escape(verdict.title), outcome, f"[bright_black]{escape(verdict.why)}[/bright_black]", "", ""
    described = metric(verdict.metric)
    measured = f"{described.title.lower()} {number(verdict.measured.value, described.unit)}"
    measured += f" ({interval(verdict.measured, described.unit)})"
    return (
        escape(verdict.title),
        outcome,
        measured,
        _value(verdict.baseline, described.unit),
        # what is lost is lost of an accuracy
        _value(verdict.clean, "share" if described.unit == "points" else described.unit),
    )


def _value(estimate: Estimate | None, unit: Unit) -> str:
    return "" if estimate is None else number(estimate.value, unit)


def gate(assessment: Assessment, fail_on: str | None) -> int:
    """Exit code of a gate: 1 if a threat has the outcome or a worse one, or if nothing was tested."""
    if fail_on is None:
        return 0
    bad = ("falls",) if fail_on == "falls" else ("falls", "inconclusive")
    failing = [v for v in assessment.verdicts if v.outcome in bad]
    # where every attack failed there is no number either
    untested = [v for v in assessment.verdicts if v.outcome == "not_tested" or not v.tried]
    rest = f"; not tested: {', '.join(v.threat for v in untested)}" if untested else ""
    if failing:
        named = ", ".join(f"{v.threat} ({OUTCOMES[v.outcome][0]})" for v in failing)
        print(f"Gate --fail-on {fail_on} failed: {named}{rest}")
        return 1
    if len(untested) == len(assessment.verdicts):
        print(f"Gate --fail-on {fail_on} failed: nothing was tested")
        return 1
    print(f"Gate --fail-on {fail_on} passed{rest}")
    return 0


def print_proofs(proofs: "Sequence[Proof]") -> None:
    """Print one row per scene."""
    out = console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Method", "Holds", "Attack", "Random baseline", "Clean", "Bar", "Seed", "Time"):
        table.add_column(title)
    for proof in proofs:
        colour, word = ("green", "✓ holds") if proof.holds else ("red", "✗ does not")
        cells = [_named(n) for n in (proof.attack, proof.baseline, proof.clean)]
        table.add_row(
            proof.id, f"[{colour}]{word}[/{colour}]", *cells, escape(proof.bar or proof.error), str(proof.seed),
            duration(proof.seconds),
        )  # fmt: skip
    out.print(table)
    held = sum(proof.holds for proof in proofs)
    out.print(f"{held} of {plural(len(proofs), 'scene')} hold.")
    for proof in proofs:
        if proof.error and proof.bar:
            out.print(f"{proof.id}: {proof.error}", markup=False)


def _named(found: "Number | None") -> str:
    if found is None:
        return ""
    unit = metric(found.name).unit
    estimate = Estimate(found.value, found.low, found.high, found.n)
    return f"{number(found.value, unit)} ({interval(estimate, unit)})"


def print_differences(differences: "Sequence[Difference]") -> None:
    """Print one row per threat that both assessments measured."""
    out = console()
    colours = {"better": "green", "worse": "red"}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("Threat", "Before", "After", "Difference (95% interval)", "p", "Change"):
        table.add_column(title)
    for row in differences:
        unit = metric(row.metric).unit
        points: Unit = "points" if unit == "share" else unit
        told = row.change != "not comparable"
        difference = (
            f"{number(row.difference.value, points)} ({interval(row.difference, points)})" if told else ""
        )
        colour = colours.get(row.change, "default")
        p = f"{row.p_value:.2g}" if told and row.p_value == row.p_value else ""
        table.add_row(
            escape(row.title), number(row.before.value, unit), number(row.after.value, unit), difference, p,
            f"[{colour}]{row.change}[/{colour}]",
        )  # fmt: skip
    out.print(table)
    for row in differences:
        why = "not comparable, " if row.change == "not comparable" else ""
        for i, note in enumerate(row.notes):
            out.print(f"{row.title}: {'' if i else why}{note}", markup=False)


def gate_differences(
    differences: "Sequence[Difference]", after: Assessment, fail_on: str | None, alone: Sequence[str] = ()
) -> int:
    """Exit code of a gate on a comparison: "worse" asks the differences, other words the second assessment.

    `alone` gives the titles of what only one of the assessments measured.
    """
    if fail_on != "worse":
        return gate(after, fail_on)
    worse = [row.title for row in differences if row.change == "worse"]
    unknown = [row.title for row in differences if row.change == "not comparable"]
    unknown += [f"{row.title} by {', '.join(row.beyond)}" for row in differences if row.beyond]
    unknown += alone
    rest = f"; not compared: {'; '.join(unknown)}" if unknown else ""
    if worse:
        print(f"Gate --fail-on worse failed: {'; '.join(f'{title} (worse)' for title in worse)}{rest}")
        return 1
    if all(row.change == "not comparable" for row in differences if row.threat != "clean"):
        print(f"Gate --fail-on worse failed: nothing was compared{rest}")
        return 1
    print(f"Gate --fail-on worse passed{rest}")
    return 0
