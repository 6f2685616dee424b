"""From a plan to the cases that it asks of one target, and what cannot be asked of it."""

import fnmatch
from collections.abc import Sequence

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.assess.plan import Ask, Plan, Threat
from casemate.assess.store import Store
from casemate.assess.surrogates import crafted_on
from casemate.assess.verdicts import TRAINED
from casemate.core.adaptive import Hooks, matching
from casemate.core.errors import UsageError
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier, GradientOracle

CLASSES = ("target", "source", "wish")  # settings of attacks that name a class


def cases_of(
    threat: Threat,
    plan: Plan,
    bench: Bench,
    seed: int,
    only: str | None = None,
    defences: tuple[str, ...] = (),
) -> list[Case]:
    """Cases of a threat; in a chain each one continues on what the earlier ones left standing.

    Of those that `only` leaves out, the ones that the folder has an answer to stay, skipped and failed
    ones as well.
    """
    cases: list[Case] = []
    versions = tuple(find(name).version for name in defences)
    for ask in threat.attacks:
        entry = find(ask.method)
        for rate in threat.rates or (None,):
            after = tuple(c.key for c in cases) if threat.chain else ()
            case = _case(entry, ask, threat, plan, bench, seed, rate, after)
            case = case.model_copy(update={"defences": defences, "defence_versions": versions})
            alone = case.model_copy(update={"after": ()})  # as it was asked where others were left out
            if wanted(entry, threat, only):
                cases.append(case)
            else:
                cases += _answered((case, alone), bench.store)[:1]
    return cases


def _answered(cases: Sequence[Case], store: Store) -> list[Case]:
    """Keep the cases that have an answer, finished ones first."""
    found = [(case, store.get(case.key)) for case in cases]
    there = [(case, result) for case, result in found if result is not None and store.whole(result)]
    return [case for case, _ in sorted(there, key=lambda pair: pair[1].status != "done")]


def wanted(entry: Entry, threat: Threat, only: str | None) -> bool:
    """Tell whether the pattern `only` matches a method, its family or its threat; None matches all."""
    names = (entry.id, entry.name, threat.id, entry.family)
    return not only or any(fnmatch.fnmatch(name, only) for name in names)


def untried(threat: Threat, cases: Sequence[Case], only: str | None) -> list[tuple[str, str]]:
    """List the attacks that the pattern does not match and that were not answered before, with the reason."""
    asked = [(find(ask.method), ask) for ask in threat.attacks]
    rates = threat.rates or (None,)
    answered = [(case.method, case.params, case.rate) for case in cases]
    return [
        (entry.id, f"left out by --only '{only}'")
        for entry, ask in asked
        if not wanted(entry, threat, only)
        and any((entry.id, entry.validate(ask.params), rate) not in answered for rate in rates)
    ]


def _case(
    entry: Entry, ask: Ask, threat: Threat, plan: Plan, bench: Bench, seed: int,
    rate: float | None, after: tuple[str, ...],
) -> Case:  # fmt: skip
    trains = entry.family in ("poisoning", "backdoor")
    rows = min(threat.rows or plan.rows, len(bench.test))
    return Case(
        method=entry.id,
        version=entry.version,
        params=entry.validate(ask.params),
        target="" if trains or entry.family == "targeted" else bench.digests.get("target", ""),
        data=bench.digests.get("data", ""),
        recipe=bench.digests.get("recipe", "") if entry.family != "evasion" else "",
        budget=threat.budget(bench.test.shape),
        rate=rate,
        rows=len(bench.test) if trains else rows,
        repeats=threat.repeats if trains else 1,
        seed=seed,
        after=after,
        hooks=_hooks(entry, ask, threat, bench),
        crafted_on=crafted_on(threat.surrogates, bench),
    )


def check_layers(plan: Plan, bench: Bench) -> None:
    """Refuse patterns of `bpda` that match no layer, before anything runs."""
    for threat in plan.threats:
        if threat.family == "evasion":
            for ask in threat.attacks:
                matching(bench.prepared, threat.hooks(ask, bench.hooks).bpda, None)


def check_classes(plan: Plan, bench: Bench, only: str | None) -> None:
    """Refuse attacks whose settings in the plan name a class that is not there, before anything runs.

    Where training rows are changed, a class without any is more likely a slip than a wish, and some
    poisons need rows of it; a finished model is asked for any class that it can answer. Of a class that
    the plan does not write, the attack itself says whether it needs it.
    """
    answered = set(range(bench.target.classes))
    poisoned = answered if bench.train is None else set(bench.train.y.unique().tolist())
    for threat in plan.threats:
        for ask in threat.attacks:
            entry = find(ask.method)
            finished = threat.family not in TRAINED or entry.access is Classifier
            there = answered if finished else poisoned
            settings = entry.validate(ask.params)
            named = {name: settings[name] for name in CLASSES if name in ask.params}
            for name, value in named.items() if wanted(entry, threat, only) else ():
                if isinstance(value, int) and value not in there:
                    raise UsageError(
                        f"The '{name}' of {ask.method} in '{threat.id}' must be one of the classes {_listed(there)}"
                        f"{'' if finished else ' of the training rows'}. Got {value}."
                    )


def _listed(classes: set[int]) -> str:
    whole = classes == set(range(len(classes)))
    return f"0 .. {len(classes) - 1}" if whole else ", ".join(map(str, sorted(classes)))


def _hooks(entry: Entry, ask: Ask, threat: Threat, bench: Bench) -> Hooks:
    """Hooks that decide the number of a case: those of gradients only where the attack takes some."""
    if entry.family != "evasion":
        return Hooks()
    hooks = threat.hooks(ask, bench.hooks)
    # on models of the adversary's own the target's tricks need no going round
    white = issubclass(entry.access, GradientOracle) and not threat.surrogates
    return hooks if white else Hooks(answers=hooks.answers)
