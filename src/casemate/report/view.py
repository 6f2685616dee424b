"""From an assessment and its results to the report as plain data; nothing is read or drawn here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from casemate.assess.result import Assessment, Provenance, Result
from casemate.core.registry import Entry
from casemate.report import words
from casemate.report.cases import case_view, doubt, labels, number
from casemate.report.curves import charts
from casemate.report.hardening import hardening
from casemate.report.model import Doubt, Gallery, Reference, Trouble, View, Word
from casemate.report.terms import terms
from casemate.report.verdicts import ORDER, answers, verdict_view

ANEW = "models trained by the recipe for it; whether the target itself carries a backdoor, casemate scan asks"


@dataclass(frozen=True)
class Found:
    """What a folder holds: the assessment, its usable results, and what is wrong with the rest.

    `lost` are (key, reason) of results that cannot be used. `galleries` are drawn examples by key,
    and `undrawn` says by key why there are none. `before` is what a hardened target is compared with,
    and `after` the path of a report on the hardened target.
    """

    assessment: Assessment
    results: Sequence[Result]
    lost: Sequence[tuple[str, str]] = ()
    galleries: Mapping[str, Sequence[Gallery]] = field(default_factory=dict)
    undrawn: Mapping[str, str] = field(default_factory=dict)
    before: Assessment | None = None
    after: str = ""


def view(found: Found, entries: Mapping[str, Entry]) -> View:
    """Lay a report out; the same input gives the same report."""
    assessment, results = _with_families(found.assessment, found.before), found.results
    names = labels(results, entries)
    by_key = {result.key: result for result in results}
    verdicts = [verdict_view(verdict, by_key, names) for verdict in assessment.verdicts]
    families = {r.case.family for r in results} | {v.family for v in assessment.verdicts}
    return View(
        title=_title(assessment),
        kind=assessment.kind,
        answers=answers(verdicts, assessment.verdicts),
        facts=_facts(assessment, results),
        verdicts=tuple(sorted(verdicts, key=lambda v: ORDER.index(v.outcome))),
        troubles=_troubles(found, names),
        checks=_checks(assessment, results, names),
        after=found.after,
        hardening=hardening(assessment, found.before),
        charts=charts(results, assessment.verdicts, names),
        cases=tuple(
            case_view(
                r, entries.get(r.case.method), names, assessment.provenance,
                found.galleries.get(r.key, ()), found.undrawn.get(r.key, ""),
            )
            for r in results
        ),
        shown=tuple(key for key in shown_first(assessment, results) if key in found.galleries),
        references=_references(results, entries),
        command=assessment.command,
        reproduce=_reproduce(assessment),
        words=tuple(Word(word=t.word, meaning=t.meaning) for t in terms(families)),
        version=assessment.provenance.casemate if assessment.provenance else "",
    )  # fmt: skip


def _with_families(assessment: Assessment, before: Assessment | None) -> Assessment:
    """Give threats that were not attacked again the family they had before."""
    known = {verdict.title: verdict.family for verdict in before.verdicts} if before else {}
    verdicts = tuple(
        verdict if verdict.family else verdict.model_copy(update={"family": known.get(verdict.title, "")})
        for verdict in assessment.verdicts
    )
    return assessment.model_copy(update={"verdicts": verdicts})


def shown_first(assessment: Assessment, results: Sequence[Result]) -> list[str]:
    """Keys of the cases whose examples open the report: the most harmful of each threat."""
    by_key = {result.key: result for result in results}
    chosen = []
    for verdict in assessment.verdicts:
        own = [by_key[key] for key in verdict.tried if key in by_key and by_key[key].evidence]
        if own:
            chosen.append(max(own, key=lambda r: _harm(r, by_key)).key)
    return list(dict.fromkeys(chosen))


def _harm(result: Result, by_key: Mapping[str, Result]) -> float:
    """How much a case did by itself; in a chain, what it added to those before it."""
    name = "success_rate" if "success_rate" in result.metrics else result.headline
    sign = -1 if words.metric(name).safer == "high" else 1
    before = [by_key[key].metrics for key in result.case.after if key in by_key]
    done = max((sign * metrics[name].value for metrics in before if name in metrics), default=0.0)
    harm = sign * result.metrics[name].value - done if name in result.metrics else float("-inf")
    return harm if harm == harm else float("-inf")


def _title(assessment: Assessment) -> str:
    what = {"assess": "Attack assessment", "harden": "Hardening"}.get(
        assessment.kind, assessment.kind.capitalize()
    )
    return f"{what} of {assessment.target}"


def _facts(assessment: Assessment, results: Sequence[Result]) -> tuple[tuple[str, str], ...]:
    clean = number(assessment.clean_accuracy, "accuracy")
    trained = any(r.case.family in ("poisoning", "backdoor") for r in results)
    follow = "; poisoning and backdoors take every row that can judge them" if trained else ""
    counts = [(sum(r.status == status for r in results), status) for status in ("done", "failed", "skipped")]
    facts = [
        ("Target", assessment.target),
        ("Data", assessment.data),
        ("Accuracy without adversary", f"{clean.text} ({clean.interval}, n = {clean.n:,})" if clean else ""),
        ("Test rows attacked", f"at most {assessment.rows:,} per case{follow}"),
        ("Poison is judged on", ANEW if trained else ""),
        ("Classes", str(assessment.classes)),
        ("Shape of one input", " x ".join(map(str, assessment.shape))),
        ("Plan", assessment.preset or assessment.title),
        ("Cases", ", ".join(f"{count} {status}" for count, status in counts if count) or "none"),
        ("Started", assessment.started.replace("T", " ")),
        ("Computing time", words.duration(assessment.seconds) if assessment.seconds else ""),
    ]
    return tuple((name, value) for name, value in facts if value)


def _troubles(found: Found, names: Mapping[str, str]) -> tuple[Trouble, ...]:
    kinds = {"failed": "Failed", "skipped": "Skipped"}
    troubles = [
        Trouble(kind=kinds[r.status], key=r.key, name=names[r.key], reason=r.reason or "no reason was given")
        for status in ("failed", "skipped")
        for r in found.results
        if r.status == status
    ]
    troubles += [Trouble(kind="Unusable", key=key, name=key, reason=reason) for key, reason in found.lost]
    troubles += [
        Trouble(kind="No pictures", key=key, name=names.get(key, key), reason=reason)
        for key, reason in found.undrawn.items()
        if reason.startswith("The evidence file")
    ]
    return tuple(troubles)


def _checks(assessment: Assessment, results: Sequence[Result], names: Mapping[str, str]) -> tuple[Doubt, ...]:
    """Gather flags by code: those of the target, then of cases, then those drawn with a verdict."""
    raised = [(flag, "the target") for flag in assessment.checks]
    raised += [(flag, names[r.key]) for r in results for flag in r.flags]
    known = {(flag.code, flag.detail) for flag, _ in raised}
    raised += [
        (flag, verdict.title or verdict.threat)
        for verdict in assessment.verdicts
        for flag in verdict.flags
        if (flag.code, flag.detail) not in known
    ]
    # a chain is a plan and no doubt about the target: its flag comes last
    gathered = sorted(dict.fromkeys(flag.code for flag, _ in raised), key=lambda code: code == "after-others")
    return tuple(
        doubt(
            next(flag for flag, _ in raised if flag.code == code),
            [
                f"{who}: {words.plain(flag.detail)}" if flag.detail else who
                for flag, who in raised
                if flag.code == code
            ],
        )
        for code in gathered
    )


def _references(results: Sequence[Result], entries: Mapping[str, Entry]) -> tuple[Reference, ...]:
    """List the publications of the methods used, each once, in the order of their first use."""
    users: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for method in (result.case.method, *result.case.defences):
            for paper in entries[method].papers if method in entries else ():
                text = f"{paper.authors}: {paper.title}. {paper.year}."
                users.setdefault((text, paper.url), []).append(method)
    return tuple(
        Reference(text=text, url=url, methods=tuple(dict.fromkeys(methods)))
        for (text, url), methods in users.items()
    )


def _reproduce(assessment: Assessment) -> tuple[tuple[str, str], ...]:
    facts = [
        ("Seed", str(assessment.seed)),
        ("Digest of the target", assessment.target_digest),
        ("Digest of the data", assessment.data_digest),
        *_versions(assessment.provenance),
    ]
    return tuple((name, value) for name, value in facts if value)


def _versions(provenance: Provenance | None) -> list[tuple[str, str]]:
    if provenance is None:
        return []
    return [
        ("casemate", provenance.casemate),
        ("Python", provenance.python),
        ("PyTorch", provenance.torch),
        ("NumPy", provenance.numpy),
        ("Device", provenance.device),
        ("Platform", provenance.platform),
        ("Threads", str(provenance.threads)),
        ("Git state", provenance.git),
    ]
