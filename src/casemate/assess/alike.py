"""What two assessments have in common: the attacks and rates at which their numbers may be compared."""

from dataclasses import dataclass

from casemate.assess.result import Assessment, Result, Verdict
from casemate.assess.store import Store
from casemate.assess.worst import robust_accuracy
from casemate.core.errors import UnknownMethod
from casemate.core.registry import find
from casemate.ops.stats import Estimate

# every other metric is the safer the higher it is
LOWER_IS_BETTER = frozenset(
    {"accuracy_drop", "attack_success", "success_rate", "auc", "tpr_at_1pct_fpr", "tpr_at_01pct_fpr"}
)


@dataclass(frozen=True)
class Side:
    """One of two assessments with its results by key."""

    store: Store
    assessment: Assessment
    results: dict[str, Result]

    def tried(self, verdict: Verdict) -> list[Result]:
        """Give the results that a verdict was drawn from."""
        return [self.results[key] for key in verdict.tried if key in self.results]


@dataclass(frozen=True)
class Alike:
    """Two verdicts cut to what both tried, what was said of it, and attacks that do not count.

    `different` says why there is nothing to compare; empty where there is something.
    """

    before: Verdict
    after: Verdict
    notes: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    different: str = ""


def alike(v: Verdict, w: Verdict, old: Side, new: Side) -> Alike:
    """Cut two verdicts on a threat to the rates and attacks that both tried."""
    v, w, notes = _at_shared_rates(v, w, old, new)
    before, after = old.tried(v), new.tried(w)
    own = {described(r) for r in before}, {described(r) for r in after}
    if v.metric != w.metric or own[0] == own[1] or not all(own):
        return Alike(v, w, notes)
    both = _separable(own[0] & own[1], before, after)
    cut = [
        _by(x, [r for r in tried if described(r) in both], side)
        for x, tried, side in ((v, before, old), (w, after, new))
    ]
    if cut[0] is None or cut[1] is None:
        return Alike(v, w, notes, different="no attack was tried alike by both")
    more = [
        (when, {described(r): r for r in tried if described(r) not in both})
        for when, tried in (("before", before), ("after", after))
    ]
    names = [[_called(r) for r in left.values()] for _, left in more]
    if set(names[0]) & set(names[1]):  # what differs is a parameter that one side does not know
        names = [list(left) for _, left in more]
    told = [f"not counted {when}: {'; '.join(n)}" for (when, _), n in zip(more, names, strict=True) if n]
    beyond = tuple(f"{r.case.method} {when}" for when, left in more for r in left.values())
    return Alike(
        cut[0],
        cut[1],
        (*notes, "compared on the attacks that both tried alike", *told),
        tuple(dict.fromkeys(beyond)),
    )


def described(result: Result) -> str:
    """Name an attack with its parameters."""
    params = ", ".join(f"{name}={value}" for name, value in sorted(result.case.params.items()))
    return f"{result.case.method}({params})"


def _called(result: Result) -> str:
    """Name an attack with those of its parameters that are not at their defaults."""
    try:
        special = find(result.case.method).unusual(result.case.params)
    except UnknownMethod:  # of an assessment that was made elsewhere
        return described(result)
    return ", ".join([result.case.method, *(f"{name} {value}" for name, value in special.items())])


def _separable(both: set[str], *sides: list[Result]) -> set[str]:
    """Leave out attacks that continued on what one left standing which only one side tried."""
    while True:
        kept = set(both)
        for tried in sides:
            names = {r.key: described(r) for r in tried}
            for r in tried:
                if any(names.get(key, described(r)) not in both for key in r.case.after):
                    kept.discard(described(r))
        if kept == both:
            return both
        both = kept


def _by(verdict: Verdict, found: list[Result], side: Side) -> Verdict | None:
    """Give a verdict by some of its results, row by row or by the worst of them; None where none has its number."""
    if verdict.family == "evasion":
        standing = [side.store.tensors(r)["standing"] for r in found]
        measured = robust_accuracy(standing) if standing else None
    else:
        found = [r for r in found if verdict.metric in r.metrics]
        measured = _worst([r.metrics[verdict.metric] for r in found], verdict.metric)
    if measured is None:
        return None
    return verdict.model_copy(update={"measured": measured, "tried": tuple(r.key for r in found)})


def _worst(numbers: list[Estimate], metric: str) -> Estimate | None:
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return max(numbers, key=lambda e: sign * e.value, default=None)


def _at_shared_rates(
    v: Verdict, w: Verdict, old: Side, new: Side
) -> tuple[Verdict, Verdict, tuple[str, ...]]:
    """Cut two verdicts on poisoned training rows to the rates that both have, where one has more, and say so.

    A poisoner who knows a defence tries higher rates, at which the model without it was not tested.
    """
    rates = [
        {r.case.rate for r in side.tried(x) if r.case.rate is not None} for side, x in ((old, v), (new, w))
    ]
    both = rates[0] & rates[1]
    if v.metric != w.metric or v.family not in ("poisoning", "backdoor") or rates[0] == rates[1] or not both:
        return v, w, ()
    cut = [
        _by(x, [r for r in side.tried(x) if r.case.rate in both], side) for side, x in ((old, v), (new, w))
    ]
    if cut[0] is None or cut[1] is None:
        return v, w, ()
    budget = {"budget": _percent(both)}
    more = [
        f"{_percent(own - both)} was tried as well {when}"
        for own, when in zip(rates, ("before", "after"), strict=True)
        if own - both
    ]
    said = f"compared at {_percent(both)} of the training rows; {'; '.join(more)}"
    return cut[0].model_copy(update=budget), cut[1].model_copy(update=budget), (said,)


def _percent(rates: set[float]) -> str:
    return ", ".join(f"{100 * rate:g}%" for rate in sorted(rates))
