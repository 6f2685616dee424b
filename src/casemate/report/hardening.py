"""Before and after a defence, and its price."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from casemate.assess.result import Assessment, Verdict
from casemate.ops.stats import Estimate
from casemate.report import words
from casemate.report.cases import number
from casemate.report.model import Change, Hardening

SHOWN = {
    "defence",
    "defences",
    "before",
    "candidates",
    "recommended",
    "training_seconds",
    "epochs",
    "rows_kept_aside",
    "compared_on",
    "weights",
}


READINGS = {
    "better": "clearly better: the intervals do not touch",
    "worse": "clearly worse: the intervals do not touch",
    "same": "the intervals overlap: this may be chance",
    "": "",
}


def hardening(assessment: Assessment, before: Assessment | None) -> Hardening | None:
    """Compare a hardened target with what it was; None where nothing was hardened.

    `before` is the earlier assessment, None where it cannot be read.
    """
    if assessment.kind != "harden":
        return None
    price = assessment.price
    earlier = {verdict.threat: verdict for verdict in before.verdicts} if before else {}
    threats = [
        _change(verdict, earlier.get(verdict.threat)) for verdict in assessment.verdicts if verdict.measured
    ]
    return Hardening(
        defence=", ".join(_defences(price)) or "not named",
        sentence=_sentence(assessment.verdicts, earlier),
        threats=tuple(threats),
        price=tuple(_price(assessment, price, before)),
        facts=tuple(_facts(price)),
    )


def _defences(price: Mapping[str, Any]) -> list[str]:
    """List the defences in use: the one trained with, and those behind single threats."""
    named = [str(price["defence"])] if price.get("defence") else []
    behind = price.get("defences")
    for each in behind.values() if isinstance(behind, Mapping) else []:
        named += [
            str(name)
            for name in (each if isinstance(each, Sequence) and not isinstance(each, str) else [each])
        ]
    return list(dict.fromkeys(named))


def _sentence(verdicts: Sequence[Verdict], earlier: Mapping[str, Verdict]) -> str:
    """Count what the defence turned, over the threats that were attacked again."""
    again = [v for v in verdicts if v.measured is not None and v.threat in earlier]
    fell = [v for v in again if earlier[v.threat].outcome == "falls"]
    if not fell:
        return (
            "Of the threats that were attacked again, none fell before."
            if again
            else "Nothing to compare with."
        )
    mended = sum(v.outcome == "holds" for v in fell)
    better = sum(_moved(v, earlier[v.threat]) == "better" for v in fell)
    return (
        f"Of {words.plural(len(fell), 'threat')} that fell before and were attacked again, knowing the defence, "
        f"{mended} now {'holds' if mended == 1 else 'hold'}, and {better} {'is' if better == 1 else 'are'} clearly better."
    )


def _change(after: Verdict, before: Verdict | None) -> Change:
    return Change(
        name=after.title, before=_told(before), after=_told(after), note=READINGS[_moved(after, before)]
    )


def _told(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not known"
    word, symbol = words.OUTCOMES[verdict.outcome]
    found = number(verdict.measured, verdict.metric)
    return f"{symbol} {word}: {found.text} ({found.interval})" if found else f"{symbol} {word}"


def _moved(after: Verdict, before: Verdict | None) -> str:
    if before is None or before.metric != after.metric:
        return ""
    return _compared(before.measured, after.measured, after.metric)


def _compared(old: Estimate | None, new: Estimate | None, metric: str) -> str:
    """Compare intervals: better, worse, same, or nothing to say."""
    if old is None or new is None:
        return ""
    up, down = new.low > old.high, new.high < old.low
    if not up and not down:
        return "same"
    return "better" if up == (words.metric(metric).safer == "high") else "worse"


def _price(assessment: Assessment, price: Mapping[str, Any], before: Assessment | None) -> list[Change]:
    kept = price.get("before")
    old = before.clean_accuracy if before else None
    old = old or _estimate(kept.get("clean_accuracy") if isinstance(kept, Mapping) else None)
    new = assessment.clean_accuracy
    note = READINGS[_compared(old, new, "accuracy")]
    changes = [Change(name="Accuracy without adversary", before=_share(old), after=_share(new), note=note)]
    if isinstance(price.get("training_seconds"), int | float):
        seconds = words.duration(float(price["training_seconds"]))
        changes.append(Change(name="Time to train all candidates", before="", after=seconds))
    if "epochs" in price:
        changes.append(
            Change(name="Passes over the training data", before="", after=words.setting(price["epochs"]))
        )
    return changes


def _estimate(raw: Any) -> Estimate | None:
    try:
        return TypeAdapter(Estimate).validate_python(raw)
    except (ValidationError, ValueError):
        return None


def _share(estimate: Estimate | None) -> str:
    found = number(estimate, "accuracy")
    return f"{found.text} ({found.interval})" if found else "not known"


def ranking(price: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the candidates as they were ranked, each with its effect, and say which are recommended."""
    candidates, best = price.get("candidates"), price.get("recommended")
    if not isinstance(candidates, Mapping):
        return []
    chosen = best if isinstance(best, Sequence) else []
    return [
        (str(name), _plain(effect) + ("; recommended" if name in chosen else ""))
        for name, effect in candidates.items()
    ]


def _facts(price: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what else is known: the candidates with their effect, and keys this version does not know."""
    facts = [(f"Candidate {name}", effect) for name, effect in ranking(price)]
    if price.get("compared_on"):
        facts.append(("Candidates for evasion compared on", str(price["compared_on"])))
    if "rows_kept_aside" in price:
        facts.append(("Rows kept aside to choose", words.setting(price["rows_kept_aside"])))
    behind = price.get("defences")
    for threat, names in behind.items() if isinstance(behind, Mapping) else []:
        facts.append((f"Defence against {threat}", _plain(names)))
    if price.get("weights"):
        facts.append(("Weights of the hardened model", str(price["weights"])))
    facts += [(k.replace("_", " ").capitalize(), _plain(v)) for k, v in price.items() if k not in SHOWN]
    return facts


def _plain(value: Any) -> str:
    """Write a nested value on one line."""
    match value:
        case {"value": _, "low": _, "high": _, "n": _}:
            found = _estimate(value)
            return f"{_share(found)} of {found.n} rows" if found else str(value)
        case Mapping():
            return ", ".join(f"{str(k).replace('_', ' ')} {_measured(str(k), v)}" for k, v in value.items())
        case list() | tuple():
            return ", ".join(map(_plain, value))
        case _:
            return words.setting(value)


def _measured(name: str, value: Any) -> str:
    """Write a value in the unit of its metric."""
    if isinstance(value, float) and name == "accuracy_lost":
        return words.number(value, "points")
    return _plain(value)
