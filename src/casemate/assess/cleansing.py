"""Choose what cleans poisoned data, trains in spite of them or mends the victim, by what a backdoor achieves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from casemate.assess.asking import cases_of
from casemate.assess.bench import Bench
from casemate.assess.choosing import NONE
from casemate.assess.plan import Plan, Threat
from casemate.assess.progress import Progress
from casemate.assess.result import Result
from casemate.assess.run import run
from casemate.core.registry import Entry, entries

PRICE = 0.03  # most accuracy, as a share, that a defence may cost to be recommended
Asked = tuple[str, float | None]  # method and rate of a case


def against_backdoors(
    falling: Sequence[Threat], bench: Bench, plan: Plan, named: Entry | None, seed: int, progress: Progress
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any], list[str]]:
    """Choose, per backdoor threat, the screening, training or repair that leaves the trigger least effect.

    Args:
        falling: backdoor threats that the model falls to.
        bench: data, recipe and workers.
        plan: the assessment's plan, whose cases are run again.
        named: the only candidate, or None for all that answer backdoors.
        seed: seed of all random numbers.
        progress: told of each case and its steps.

    Returns:
        The choice by threat; what each candidate and no defence achieved at its worst rate, the best
        first; and which of them are recommended.
    """
    known = candidates(named)
    bench = replace(bench, keep_poisoned=True)
    chosen: dict[str, tuple[str, ...]] = {}
    report: dict[str, Any] = {}
    good: list[str] = []
    for threat in (t for t in falling if known and t.family == "backdoor"):
        without = _answered(threat, bench, plan, None, seed, progress)
        effects = {NONE: _effect(without, without)} if without else {}
        for entry in known if without else []:
            found = _answered(threat, bench, plan, entry, seed, progress)
            if found:
                effects[entry.id] = _effect(found, without)
        effects = cleanest(effects)
        best = next((name for name in effects if name != NONE), None)
        if best is None:
            continue
        chosen[threat.id] = (best,)
        report |= {title(name, threat): each for name, each in effects.items()}
        if helps(effects[best], effects[NONE]):
            good.append(title(best, threat))
    return chosen, report, good


def candidates(named: Entry | None) -> list[Entry]:
    """List the defences that answer backdoors, or the named one alone if it is one of them."""
    known = [
        e for kind in ("screening", "training", "repair") for e in entries(kind) if "backdoor" in e.answers
    ]
    return [e for e in known if named in (None, e)]


def title(name: str, threat: Threat) -> str:
    """Name a candidate and the threat that it was tried against, since several threats may fall."""
    return f"{name} against {threat.id}"


def cleanest(effects: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Order candidates by what the attack achieves; those that cost too much accuracy come last."""
    return dict(
        sorted(effects.items(), key=lambda item: (_dear(item[1]), item[1]["attack_success"]["value"]))
    )


def helps(defended: Mapping[str, Any], without: Mapping[str, Any]) -> bool:
    """Tell whether a defence lowers attack success beyond the intervals, at a price within the limit."""
    clear = defended["attack_success"]["high"] < without["attack_success"]["low"]
    return bool(clear and not _dear(defended))


def _dear(found: Mapping[str, Any]) -> bool:
    return bool(found["accuracy_lost"] > PRICE)


def _answered(
    threat: Threat, bench: Bench, plan: Plan, entry: Entry | None, seed: int, progress: Progress
) -> dict[Asked, Result]:
    """Attack behind a candidate, or behind none, at all rates; cases that could not be answered are left out."""
    cases = cases_of(adaptive(threat), plan, bench, seed, defences=(entry.id,) if entry else ())
    done = (r for r in run(cases, bench, progress) if r.status == "done")
    return {(r.case.method, r.case.rate): r for r in done}


def _effect(found: Mapping[Asked, Result], without: Mapping[Asked, Result]) -> dict[str, Any]:
    """Tell the attack's success at its worst rate, and the most accuracy that the defence costs at one rate.

    What the poison costs by itself is no price of the defence: it is compared with the poisoned victim.
    """
    worst = max((r.metrics["attack_success"] for r in found.values()), key=lambda success: success.value)
    lost = [
        (without[asked].metrics if asked in without else r.clean)["accuracy"].value
        - r.metrics["accuracy"].value
        for asked, r in found.items()
    ]
    return {"attack_success": asdict(worst), "accuracy_lost": max(lost)}


def adaptive(threat: Threat) -> Threat:
    """Let a poisoner who knows the defence choose the rate: the given ones and three times as many."""
    rates = sorted({rate for r in threat.rates for rate in (r, min(1.0, 3 * r))})
    return threat.model_copy(update={"rates": tuple(rates)})
