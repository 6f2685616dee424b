"""Verdicts as the report shows them, and the answers to the three questions."""

import re
from collections.abc import Mapping, Sequence

from casemate.assess.result import Flag, Outcome, Result, Verdict
from casemate.report import words
from casemate.report.cases import doubt, number
from casemate.report.flags import reason
from casemate.report.model import Answer, Left, Number, Tried, VerdictView

ORDER: tuple[Outcome, ...] = ("falls", "inconclusive", "not_tested", "holds")
QUESTIONS = (
    ("Can it be fooled", ("evasion", "universal", "semantic", "physical", "malware")),
    ("Can it be poisoned", ("poisoning", "targeted", "backdoor")),
    ("Does it leak", ("membership",)),
)
KNOWN = {
    "gradients": "gradients (white box)",
    "scores": "scores (black box)",
    "decisions": "decisions only (black box)",
}

SUPPLIED = {
    "training data": "supplies part of the training data",
    "training data and models of their own": "supplies part of the training data and trains models of their own",
}


def verdict_view(verdict: Verdict, results: Mapping[str, Result], names: Mapping[str, str]) -> VerdictView:
    """Show one verdict."""
    word, symbol = words.OUTCOMES[verdict.outcome]
    limit, at_least = bound(verdict.requirement)
    comparable = _comparable(verdict, results)
    tried = tuple(_tried(key, results.get(key), names) for key in verdict.tried)
    return VerdictView(
        threat=verdict.threat,
        title=_short_title(verdict),
        family=verdict.family,
        question=verdict.question or _stem(verdict),
        outcome=verdict.outcome,
        word=word,
        symbol=symbol,
        why=_why(verdict.why),
        metric=words.metric(verdict.metric).title if verdict.metric else "",
        measured=number(verdict.measured, verdict.metric),
        baseline=number(verdict.baseline, verdict.metric),
        clean=_clean(verdict, comparable),
        clean_title=_clean_title(verdict, comparable),
        on_scale=_on_scale(verdict, comparable),
        requirement=_requirement(verdict, limit, at_least),
        bound=limit,
        at_least=at_least,
        budget=_budget(verdict, results),
        access=_access(verdict.access),
        tried=tried,
        chained=any(results[key].case.after for key in verdict.tried if key in results),
        not_tried=_not_tried(verdict, results),
        doubts=tuple(doubt(flag, _raised_by(flag, verdict, results, names)) for flag in verdict.flags),
    )


def _not_tried(verdict: Verdict, results: Mapping[str, Result]) -> tuple[Left, ...]:
    """List what was not tried; cases that failed or were skipped have rows of their own."""
    told = {(r.case.method, r.reason) for r in results.values() if r.status != "done"}
    return tuple(Left(name=name, reason=why) for name, why in verdict.not_tried if (name, why) not in told)


def _raised_by(
    flag: Flag, verdict: Verdict, results: Mapping[str, Result], names: Mapping[str, str]
) -> list[str]:
    """Name the cases that raised a flag, where several were tried."""
    if len(verdict.tried) < 2:
        return []
    return [names.get(k, k) for k in verdict.tried if k in results and flag in results[k].flags]


def _tried(key: str, result: Result | None, names: Mapping[str, str]) -> Tried:
    found = result.metrics.get(result.headline) if result else None
    return Tried(key=key, name=names.get(key, key), number=number(found, result.headline) if result else None)


def _access(text: str) -> str:
    """Write access levels such as "gradients, scores" as people read them."""
    parts = [part for part in text.split(", ") if part]
    used = [KNOWN[part] for part in parts if part in KNOWN]
    other = [SUPPLIED.get(part, part) for part in parts if part not in KNOWN]
    return _and([f"uses {_and(used)}", *other] if used else other)


def _comparable(verdict: Verdict, results: Mapping[str, Result]) -> bool:
    """Tell whether `clean` is the verdict's own metric; else it is plain accuracy."""
    if verdict.metric.startswith("robust_accuracy") or verdict.metric == "accuracy":
        return True
    return any(verdict.metric in results[key].clean for key in verdict.tried if key in results)


def _clean(verdict: Verdict, comparable: bool) -> Number | None:
    found = number(verdict.clean, verdict.metric if comparable else "accuracy")
    by_chance = found is not None and _clean_title(verdict, comparable) == "guessing"
    return found.model_copy(update={"interval": "by definition"}) if found and by_chance else found


def _clean_title(verdict: Verdict, comparable: bool) -> str:
    if verdict.family == "membership" and comparable:
        return "guessing"  # nobody attacks a model without an adversary: chance stands in its place
    return "" if comparable else "accuracy"


def _on_scale(verdict: Verdict, comparable: bool) -> bool:
    shown = [verdict.measured, verdict.baseline, verdict.clean if comparable else None]
    values = [e.value for e in shown if e is not None]
    return words.metric(verdict.metric).unit != "plain" and all(0 <= v <= 1 for v in values)


def _short_title(verdict: Verdict) -> str:
    """Drop the question from a title such as "Does it leak: model inversion"."""
    head, _, rest = verdict.title.partition(": ")
    known = {question for question, _ in QUESTIONS}
    return rest[:1].upper() + rest[1:] if rest and head in known else verdict.title or verdict.threat


def _stem(verdict: Verdict) -> str:
    head = verdict.title.partition(": ")[0]
    return f"{head}?" if head in {question for question, _ in QUESTIONS} else ""


def bound(requirement: str) -> tuple[float | None, bool]:
    """Read the share that is required, and whether at least as much is."""
    found = re.search(r"at (least|most) ([\d.]+)%", requirement)
    return (float(found[2]) / 100, found[1] == "least") if found else (None, False)


def _requirement(verdict: Verdict, limit: float | None, at_least: bool) -> str:
    if limit is None:
        return verdict.requirement
    unit = " points" if words.metric(verdict.metric).unit == "points" else "%"
    return f"{'at least' if at_least else 'at most'} {100 * limit:g}{unit}"


def _budget(verdict: Verdict, results: Mapping[str, Result]) -> str:
    """Write the budget; from the cases where they agree, for they have it exactly."""
    balls = {r.case.budget for key in verdict.tried if (r := results.get(key)) and r.case.budget}
    if len(balls) == 1:
        return words.spending(balls.pop())
    for norm, name in words.NORMS.items():
        if verdict.budget.startswith(norm):
            return name + verdict.budget.removeprefix(norm)
    if not verdict.budget.endswith("training rows"):
        return verdict.budget
    return f"may change {verdict.budget}{_in_rows([results[key] for key in verdict.tried if key in results])}"


def _in_rows(tried: Sequence[Result]) -> str:
    """Say how many rows the poisons of a threat changed, where all had as many to choose from."""
    notes = [r.notes for r in tried if {"training_rows", "poisoned_rows"} <= set(r.notes)]
    sizes = {int(each["training_rows"]) for each in notes}
    if len(sizes) != 1:
        return ""
    counts = sorted({int(each["poisoned_rows"]) for each in notes})
    return f": {', '.join(f'{n:,}' for n in counts)} of {sizes.pop():,}"


def answers(verdicts: Sequence[VerdictView], raw: Sequence[Verdict]) -> tuple[Answer, ...]:
    """Answer each question in one sentence, by the worst of its threats."""
    found = []
    left = list(zip(verdicts, raw, strict=True))
    for question, families in QUESTIONS:
        own = [
            p
            for p in left
            if p[1].family in families or (not p[1].family and p[1].title.startswith(question))
        ]
        left = [p for p in left if p not in own]
        found.append(_answer(f"{question}?", own))
    if left:
        found.append(_answer("What else?", left))
    return tuple(found)


def _answer(question: str, own: Sequence[tuple[VerdictView, Verdict]]) -> Answer:
    if not own:
        return _told(question, "not_tested", "Not tested: the plan does not ask.")
    kinds = {verdict.outcome for _, verdict in own}
    outcome = next(o for o in ("falls", "inconclusive", "holds", "not_tested") if o in kinds)
    view, verdict = max((p for p in own if p[1].outcome == outcome), key=_severity)
    match outcome:
        case "falls":
            text = f"Yes: {_finding(view, verdict)}"
        case "holds":
            text = f"Not by what was tried: {_finding(view, verdict)}"
        case "inconclusive":
            text = f"Cannot be said: {_finding(view, verdict)} {view.why}".strip()
        case _:
            text = f"Not tested: {verdict.why or 'no reason was given'}."
    return _told(question, outcome, f"{text} {_tally(own)}".strip())


def _told(question: str, outcome: Outcome, sentence: str) -> Answer:
    word, symbol = words.OUTCOMES[outcome]
    return Answer(question=question, outcome=outcome, word=word, symbol=symbol, sentence=sentence)


def _severity(pair: tuple[VerdictView, Verdict]) -> float:
    """Order verdicts of one outcome: how far the number lies on the wrong side of the bound."""
    view, verdict = pair
    if view.bound is None or verdict.measured is None or verdict.measured.value != verdict.measured.value:
        return -1.0
    gap = verdict.measured.value - view.bound
    return -gap if view.at_least else gap


def _finding(view: VerdictView, verdict: Verdict) -> str:
    """Write the number in a sentence, with interval, n and requirement."""
    if verdict.measured is None or view.measured is None:
        return ""
    kind = words.metric(verdict.metric)
    value = words.short(verdict.measured.value, kind.unit)
    asked = f"; {view.requirement} is required" if view.requirement else ""
    return f"{value} {kind.says} (95% interval {view.measured.interval}, n = {view.measured.n:,}){asked}."


def _tally(own: Sequence[tuple[VerdictView, Verdict]]) -> str:
    if len(own) < 2:
        return ""
    if len({verdict.outcome for _, verdict in own}) == 1:
        outcome = own[0][1].outcome
        return "" if outcome == "not_tested" else f"All {len(own)} threats {_verb(outcome, len(own))}."
    counts = [(sum(v.outcome == outcome for _, v in own), outcome) for outcome in ORDER]
    parts = [f"{count} {_verb(outcome, count)}" for count, outcome in counts if count]
    return f"Of {len(own)} threats {_and(parts)}."


def _verb(outcome: Outcome, count: int) -> str:
    one = count == 1
    match outcome:
        case "falls":
            return "falls" if one else "fall"
        case "holds":
            return "holds" if one else "hold"
        case "inconclusive":
            return "is inconclusive" if one else "are inconclusive"
        case _:
            return "was not tested" if one else "were not tested"


def _and(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _why(text: str) -> str:
    """Write a reason as a sentence, with names of checks in words; a mere requirement is shown elsewhere."""
    if text.startswith("required:"):
        return ""
    return _sentence(reason(text))


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "!", "?")) else text + "."
