"""From the results of a threat's cases to one verdict that the evidence supports."""

from collections.abc import Sequence

from casemate.assess.case import told_apart
from casemate.assess.checks import SERIOUS, black_box_wins, transfer_wins
from casemate.assess.plan import Threat
from casemate.assess.result import Curve, Flag, Outcome, Result, Verdict
from casemate.assess.store import Store
from casemate.assess.worst import robust_accuracy
from casemate.core.registry import find
from casemate.core.target import GradientOracle
from casemate.core.threat import Lp, format_eps
from casemate.ops.stats import Estimate

FEW_ROWS = 50
TRAINED = ("poisoning", "targeted", "backdoor", "membership")  # families that train models like the target


def draw(
    threat: Threat,
    results: Sequence[Result],
    store: Store,
    checks: Sequence[Flag],
    shape: tuple[int, ...],
    left_out: Sequence[tuple[str, str]] = (),
) -> Verdict:
    """Draw the verdict of a threat.

    "Falls" needs only examples, which were verified one by one; "holds" needs every check to have
    passed as well, because attacks also fail for reasons that an adversary would not share. Of a
    target that answers at random several answers judge each row: it "falls" by the rows that most
    answers get wrong, and "holds" only if the rows that every answer gets right suffice, under
    attacks with averaged gradients.
    `left_out` lists attacks of the threat that the user kept from running, with the reason.
    """
    done = [r for r in results if r.status == "done"]
    flags = _unique([f for r in done for f in r.flags if f.code != "after-others"])
    worst, strict = None, None
    if threat.family == "evasion":
        flags += [f for f in checks if f.code != "surrogate-recipe"]
        measured, strict, more = _worst_rows(done, store)
        flags += more
    else:
        finished = threat.family not in TRAINED
        flags += [f for f in checks if (f.code != "surrogate-recipe") == finished]
        worst = _worst_result(threat, done)
        measured = worst.metrics.get(threat.require.metric) if worst else None
    flags += _too_few(threat, measured)
    shown = worst or (done[0] if done else None)
    metric = threat.require.metric
    clean = (shown.clean.get(metric) or shown.clean.get("accuracy")) if shown else None
    flags += _no_better(threat, measured, shown.baseline.get(metric) if shown else None, clean)
    outcome, why = _outcome(threat, results, measured, strict, flags, left_out)
    if threat.family == "evasion" and clean is not None and threat.require.judge(clean) == "falls":
        why = f"the model is right too rarely even without an attack; {why}"
    return Verdict(
        threat=threat.id,
        title=threat.title,
        family=threat.family,
        question=threat.question,
        outcome=outcome,
        why=why,
        requirement=str(threat.require),
        metric=metric,
        measured=measured,
        baseline=shown.baseline.get(metric) if shown else None,
        clean=clean,
        budget=describe_budget(threat, shape),
        access=_access(done),
        tried=tuple(r.key for r in done),
        not_tried=(*((r.case.method, r.reason) for r in results if r.status != "done"), *left_out),
        flags=tuple(_unique(flags)),
        curves=_curves(threat, done),
    )


def _outcome(
    threat: Threat,
    results: Sequence[Result],
    measured: Estimate | None,
    strict: Estimate | None,
    flags: Sequence[Flag],
    left_out: Sequence[tuple[str, str]],
) -> tuple[Outcome, str]:
    if measured is None:
        failed = [r for r in results if r.status == "failed"]
        if failed:
            return "inconclusive", f"no attack finished; {failed[0].case.method}: {failed[0].reason}"
        return "not_tested", results[0].reason if results else "nothing was planned"
    outcome = threat.require.judge(measured)
    doubts = sorted({f.code for f in flags} & SERIOUS)
    unfinished = [r.case.method for r in results if r.status == "failed"]
    if "blind-baseline" in doubts:
        return (
            "inconclusive",
            "members can be told from others without the model, which says nothing about it",
        )
    if "randomised" in doubts and strict is None:
        return "inconclusive", "the target answers at random, and one answer per input is no evidence"
    if "randomised" in doubts:
        doubts.remove("randomised")
        if outcome == "holds" and threat.require.judge(strict or measured) != "holds":
            return "inconclusive", "the number holds for most answers to an input, but not for every answer"
        if outcome == "holds" and not any(r.case.hooks.eot > 1 for r in results if r.status == "done"):
            return "inconclusive", "the target answers at random, and no attack averaged over its draws"
    if outcome == "holds" and doubts:
        return "inconclusive", f"the number would hold, but a check failed: {', '.join(doubts)}"
    if outcome == "holds" and unfinished:
        return (
            "inconclusive",
            f"the number would hold, but not every attack finished: {', '.join(unfinished)}",
        )
    if outcome == "holds" and left_out:
        names = ", ".join(dict.fromkeys(method for method, _ in left_out))
        return "inconclusive", f"the number would hold, but not every attack was tried: {names}"
    if outcome == "inconclusive":
        return outcome, f"the interval contains the bound ({threat.require}); more rows or repeats would tell"
    return outcome, f"required: {threat.require}"


def _worst_rows(done: Sequence[Result], store: Store) -> tuple[Estimate | None, Estimate | None, list[Flag]]:
    """Worst case per row over the results that attacked the same rows, and what is doubtful.

    The second estimate counts rows that stand in every one of several answers; None unless all
    results took several.
    """
    tensors = {r.key: store.tensors(r) for r in done}
    standing = {key: found["standing"] for key, found in tensors.items()}
    if not standing:
        return None, None, []
    # rows that are wrong without an attack were fooled by nobody
    right = {key: found["standing"][found["clean_correct"]] for key, found in tensors.items()}
    white = [r.key for r in done if issubclass(find(r.case.method).access, GradientOracle)]
    black = [r.key for r in done if r.key not in white]
    always = [found["always"] for found in tensors.values() if "always" in found]
    strict = robust_accuracy(always) if len(always) == len(standing) else None
    return robust_accuracy(list(standing.values())), strict, black_box_wins(right, white, black)


def overtaken(results: Sequence[Result], store: Store) -> list[Flag]:
    """Tell where examples from an adversary's own models fool what gradients of the target do not.

    Results of all threats are compared, ball by ball: white-box attacks count that had the same ball or
    a larger one. Such a target hides its gradients, whatever threat is asked about.
    """
    done = [
        (r, r.case.budget)
        for r in results
        if r.status == "done" and r.case.family == "evasion" and isinstance(r.case.budget, Lp)
    ]
    flags = []
    for ball in dict.fromkeys(budget for r, budget in done if r.case.crafted_on):
        white = [
            r for r, budget in done
            if not r.case.crafted_on and budget.norm == ball.norm and budget.eps >= ball.eps
            and issubclass(find(r.case.method).access, GradientOracle)
        ]  # fmt: skip
        transferred = [r for r, budget in done if r.case.crafted_on and budget == ball]
        if white:
            flags += transfer_wins([store.tensors(r) for r in white], [store.tensors(r) for r in transferred])
    return _unique(flags)


def _worst_result(threat: Threat, done: Sequence[Result]) -> Result | None:
    metric = threat.require.metric
    having = [r for r in done if metric in r.metrics]
    if not having:
        return None
    sign = -1 if threat.require.at_least is not None else 1
    return max(having, key=lambda r: sign * r.metrics[metric].value)


def _too_few(threat: Threat, measured: Estimate | None) -> list[Flag]:
    if threat.family == "evasion" and measured is not None and measured.n < FEW_ROWS:
        return [Flag(code="few-rows", detail=f"{measured.n} rows; {FEW_ROWS} or more are needed")]
    return []


def _no_better(
    threat: Threat, measured: Estimate | None, baseline: Estimate | None, clean: Estimate | None
) -> list[Flag]:
    """Doubt attacks on a finished model that do no more than random changes, where these do anything at all."""
    if threat.family in TRAINED or measured is None or baseline is None or clean is None:
        return []
    sign = 1 if threat.require.at_least is not None else -1
    idle = sign * baseline.value >= sign * clean.value
    if idle or sign * measured.value < sign * baseline.value:
        return []
    return [Flag(code="baseline-beats-attack", detail="random changes of equal size do as much or more")]


def _curves(threat: Threat, done: Sequence[Result]) -> dict[str, Curve]:
    """Damage over the poison rate, per attack and beside it what as many random changes do."""
    if threat.family not in ("poisoning", "backdoor"):
        return {}
    metric = threat.require.metric
    groups: dict[str, list[Result]] = {}
    for result in done:
        if metric in result.metrics:
            # the same attack may be asked for twice, with other settings
            settings = f"{result.case.method} {result.case.params} {result.case.defences}"
            groups.setdefault(settings, []).append(result)
    found: dict[str, Curve] = {}
    drawn = [g for g in groups.values() if len({r.case.rate for r in g}) > 1]
    for group, settings in zip(drawn, told_apart([g[0].case for g in drawn]), strict=True):
        method = group[0].case.method.partition(".")[2].replace("_", " ")
        method += f", {settings}" if settings else ""
        times = 1 + sum(name.partition(" (")[0] == method for name in found)
        name = method if times == 1 else f"{method} ({times})"
        found[name] = _over_rates(metric, [(r.case.rate or 0.0, r.metrics[metric]) for r in group])
        idle = [(r.case.rate or 0.0, r.baseline[metric]) for r in group if metric in r.baseline]
        if idle:
            found[f"{name}, random baseline"] = _over_rates(metric, idle)
    return found


def _over_rates(metric: str, points: list[tuple[float, Estimate]]) -> Curve:
    points = sorted(points, key=lambda point: point[0])
    return Curve(
        x=[rate for rate, _ in points],
        y=[e.value for _, e in points],
        low=[e.low for _, e in points],
        high=[e.high for _, e in points],
        x_label="share of the training rows that are poisoned",
        y_label=metric.replace("_", " "),
    )


def describe_budget(threat: Threat, shape: tuple[int, ...]) -> str:
    """Write what the adversary may spend, as people read it."""
    budget = threat.budget(shape)
    if isinstance(budget, Lp):
        asked = f", {budget.queries} queries" if budget.queries else ""
        return f"{budget.norm} {format_eps(budget.eps)}{asked}"
    if budget is not None:
        return str(budget)
    if threat.rates:
        return ", ".join(f"{100 * rate:g}%" for rate in threat.rates) + " of the training rows"
    return ""


def _access(done: Sequence[Result]) -> str:
    """Name what the adversaries that were tried saw; those that could not run show nothing."""
    levels = {"surrogates" if r.case.crafted_on else find(r.case.method).access.__name__ for r in done}
    names = {
        "surrogates": "models of their own",
        "LabelOracle": "decisions",
        "ScoreOracle": "scores",
        "GradientOracle": "gradients",
        "Samples": "training data",
        "Workshop": "training data and models of their own",
        "Classifier": "the model itself",
    }
    return ", ".join(sorted(names.get(level, level) for level in levels))


def _unique(flags: Sequence[Flag]) -> list[Flag]:
    return list({(f.code, f.detail): f for f in flags}.values())
