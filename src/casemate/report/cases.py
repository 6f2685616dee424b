"""One result as the report shows it."""

from collections.abc import Mapping, Sequence

from casemate.assess.case import Case
from casemate.assess.result import Flag, Provenance, Result, Spent
from casemate.core.registry import Entry
from casemate.ops.stats import Estimate
from casemate.report import words
from casemate.report.flags import explain
from casemate.report.model import CaseView, Doubt, Gallery, MetricRow, Number, Setting, Tried


def number(estimate: Estimate | None, metric: str) -> Number | None:
    """Write an estimate of a metric; None stays None."""
    if estimate is None:
        return None
    unit = words.metric(metric).unit
    return Number(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        text=words.number(estimate.value, unit),
        interval=words.interval(estimate, unit),
    )


def doubt(flag: Flag, where: Sequence[str] = ()) -> Doubt:
    """Explain a flag."""
    title, meaning, action = explain(flag.code)
    return Doubt(
        code=flag.code,
        title=title,
        detail=words.plain(flag.detail),
        meaning=meaning,
        action=action,
        where=tuple(where),
    )


def labels(results: Sequence[Result], entries: Mapping[str, Entry]) -> dict[str, str]:
    """Name each case by its method and what sets it apart, no two alike: key -> label."""
    found: dict[str, str] = {}
    taken: dict[str, int] = {}
    for result in results:
        label = _label(result.case, entries.get(result.case.method))
        taken[label] = taken.get(label, 0) + 1
        found[result.key] = label if taken[label] == 1 else f"{label} ({taken[label]})"
    return found


def _label(case: Case, entry: Entry | None) -> str:
    name = case.method.partition(".")[2] or case.method
    special = entry.unusual(case.params) if entry else {}
    parts = [f"{k} {words.setting(v, k)}" for k, v in special.items()]
    if case.rate is not None:
        parts.append(f"{100 * case.rate:g}% of rows")
    parts += [f"against {d.partition('.')[2] or d}" for d in case.defences]
    return name.replace("_", " ") + (f", {', '.join(parts)}" if parts else "")


def case_view(
    result: Result,
    entry: Entry | None,
    names: Mapping[str, str],
    common: Provenance | None,
    drawn: Sequence[Gallery],
    gallery_note: str,
) -> CaseView:
    """Show one result; `common` is the provenance that need not be repeated."""
    case = result.case
    return CaseView(
        key=result.key,
        method=case.method,
        name=case.method.partition(".")[2] or case.method,
        label=names[result.key],
        family=case.family,
        summary=words.prose(entry.summary)
        if entry
        else "This method is not installed here, so its description is missing.",
        status=result.status,
        reason=result.reason,
        headline=number(result.metrics.get(result.headline), result.headline),
        headline_title=words.metric(result.headline).title if result.headline else "",
        metrics=_metrics(result),
        settings=_settings(case, entry),
        access=_own(case.crafted_on) if case.crafted_on else access(entry, case.family),
        budget=words.budget(case),
        rows=case.rows,
        seed=case.seed,
        defences=case.defences,
        after=tuple(Tried(key=k, name=names.get(k, k), number=None) for k in case.after),
        cost=cost(result.spent, case.family),
        doubts=tuple(doubt(flag) for flag in result.flags),
        notes=tuple((k.replace("_", " ").capitalize(), words.setting(v)) for k, v in result.notes.items()),
        evidence=result.evidence,
        provenance=_differences(result.provenance, common),
        galleries=tuple(drawn),
        gallery_note=gallery_note,
    )


def access(entry: Entry | None, family: str) -> str:
    """Say what the adversary of a method knows."""
    name = entry.access.__name__ if entry else ""
    known = words.ACCESS.get(name, name)
    return f"{known}; trains models of its own on similar data" if family == "membership" and known else known


def cost(spent: Spent, family: str) -> tuple[tuple[str, str], ...]:
    """List what an answer cost; passes per row only where they were counted."""
    rows = []
    if family == "evasion":
        rows += (
            [("Passes of", "models of the adversary's own; none of the target")]
            if spent.of == "surrogate"
            else []
        )
        rows += [
            ("Queries per row", f"{spent.queries_mean:,.1f} on average, at most {spent.queries_max:,}"),
            ("Gradients per row", f"{spent.gradients_mean:,.1f} on average, at most {spent.gradients_max:,}"),
        ]
    elif spent.queries_max:
        rows.append(
            ("Queries per row", f"{spent.queries_mean:,.1f} on average, at most {spent.queries_max:,}")
        )
    return (*rows, ("Time", words.duration(spent.seconds)))


def _metrics(result: Result) -> tuple[MetricRow, ...]:
    order = dict.fromkeys([result.headline, *result.metrics, *result.baseline, *result.clean])
    return tuple(
        MetricRow(
            name=name,
            title=words.metric(name).title,
            attack=number(result.metrics.get(name), name),
            baseline=number(result.baseline.get(name), name),
            clean=number(result.clean.get(name), name),
        )
        for name in order
        if name in result.metrics or name in result.baseline or name in result.clean
    )


def _settings(case: Case, entry: Entry | None) -> tuple[Setting, ...]:
    fields = entry.params.model_fields if entry else {}
    return tuple(
        Setting(
            name=k, value=words.setting(v, k), help=words.prose(fields[k].description) if k in fields else ""
        )
        for k, v in case.params.items()
    )


def _differences(own: Provenance | None, common: Provenance | None) -> tuple[tuple[str, str], ...]:
    """List what a case was computed with, where that is not what the assessment says."""
    if own is None or common is None:
        return ()
    mine, theirs = own.model_dump(), common.model_dump()
    return tuple(
        (k.capitalize(), words.setting(v)) for k, v in mine.items() if k != "time" and v != theirs[k] and v
    )


def _own(crafted_on: tuple[str, ...]) -> str:
    """Say that examples come from the adversary's own models, and of what kinds these are."""
    kinds = ", ".join(dict.fromkeys(name.partition(":")[0] for name in crafted_on))
    return f"{words.OWN_MODELS} ({kinds})"
