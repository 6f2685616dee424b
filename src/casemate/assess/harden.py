"""Choose a defence by its measured effect, train it, and attack the result again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from casemate.assess.assessment import Options, assess_bench, make_bench
from casemate.assess.bench import Bench
from casemate.assess.choosing import NONE, choose_rows, effect, ranked, recommended
from casemate.assess.cleansing import adaptive, against_backdoors
from casemate.assess.plan import Plan, Threat
from casemate.assess.progress import Progress, silent
from casemate.assess.result import Assessment, Flag
from casemate.assess.retrain import replaced, retrain, standing, trained_for_a_ball
from casemate.assess.serve import SLOW, behind, serve
from casemate.assess.store import Store
from casemate.assess.targets import load_data, load_model
from casemate.core.errors import UsageError
from casemate.core.registry import ANSWERS, Entry, entries, find
from casemate.core.threat import Lp
from casemate.core.workers import Workers

FOLDER = "hardened"
ANSWERED = ("evasion", "backdoor")  # families of the threats that are answered here


def harden(
    *,
    out: Path | str,
    defence: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Assessment:
    """Defend an assessed target where it falls, and assess it again.

    Evasion is answered by training on attacked inputs or by a step in front of the model, each attacked
    knowing it; backdoors by screening the data, training in spite of them or repairing the
    victim; without a name every registered defence of the right kind is tried, and the one with
    the best measured effect is kept: against evasion on rows that the final numbers do not use, against
    backdoors by the same victims, so that of many candidates the best one looks a little better than it is.

    Args:
        out: folder of a finished assessment; the new one goes into its folder "hardened".
        defence: a defence by any of its names; None means choose.
        seed: seed of the training; None means the assessment's.
        workers: training processes; None means one per core.
        progress: told of each case and its steps.

    Returns:
        The assessment of the hardened target, of kind "harden".

    Raises:
        UsageError: nothing falls, the defence does not fit, or training data are missing.
    """
    old = Store(out).assessment()
    named = None if defence is None else find(defence)
    if named is not None and not named.answers:
        raise UsageError(f"A defence must be of family {', '.join(ANSWERS)}. Got {named.id}.")
    if named is not None and named.family == "scanning":
        raise UsageError(
            f"{named.id} finds backdoors and mends none. Use `casemate scan`, or another defence."
        )
    if named is not None and not set(named.answers) & set(ANSWERED):
        raise UsageError(
            f"A defence must answer {' or '.join(ANSWERED)}. Got {named.id}, which answers "
            f"{', '.join(named.answers)}."
        )
    seed = old.seed if seed is None else seed
    given = dict(old.options)
    plan = Plan.model_validate(given.pop("plan"))
    options = _options(given, workers)
    data = load_data(options.data, bounds=options.bounds)
    model = load_model(options.model, data.test, bounds=options.bounds, mean=options.mean, std=options.std,
                       device=options.device)  # fmt: skip
    store = Store(Path(out) / FOLDER)
    store.check()
    with Workers(options.workers) as pool:
        bench, doubts = make_bench(model, data, options, store, pool, seed)
        falling = _falling(old, plan, named)
        price: dict[str, Any] = {}
        ball = _ball(falling, bench.test.shape)
        if ball is not None and (named is None or named.family in ("training", "serving")):
            bench, doubts, price = _against_evasion(bench, ball, named, _attacked(plan), seed, progress)
        defences, effects, good = against_backdoors(falling, bench, plan, named, seed, progress)
        again, left_out = _again(plan, retrained=bool(price), defences=defences)
        price["recommended"] = [*recommended(price), *good]
        price["candidates"] = {**price.get("candidates", {}), **effects}
        price["defences"] = {threat: list(names) for threat, names in defences.items()}
        price["before"] = {
            "folder": "..",
            "clean_accuracy": old.clean_accuracy.__dict__ if old.clean_accuracy else None,
        }
        command = f"casemate harden {out}" + (f" --defence {named.id}" if named else "")
        return assess_bench(
            bench, again, options, doubts, seed=seed, only=None, command=command, progress=progress,
            kind="harden", price=price, defences=defences, left_out=left_out,
        )  # fmt: skip


def _against_evasion(
    bench: Bench, ball: Lp, named: Entry | None, used: int, seed: int, progress: Progress
) -> tuple[Bench, list[Flag], dict[str, Any]]:
    """Train with or serve behind what leaves most rows standing under an attack that knows it."""
    fronts = [e for e in entries("serving") if named == e or (named is None and e.id not in SLOW)]
    trainings = [e for e in entries("training") if named == e or (named is None and trained_for_a_ball(e))]
    choice = choose_rows(bench, used, seed)
    served, effects = serve(bench, fronts, choice.rows, ball, seed, progress) if fronts else (None, {})
    if served is None and not trainings:
        raise UsageError(f"The defence {named.id if named else ''} does not fit this target.")
    effects = {NONE: effect(standing(bench, bench.target, choice.rows, ball, seed)), **effects}
    trained, price = retrain(bench, trainings, choice, ball, seed, progress) if trainings else (None, {})
    effects = ranked({**price.get("candidates", {}), **effects})
    said = {"candidates": effects, "compared_on": f"{len(choice.rows)} {choice.what}"}
    if trained is None or (served is not None and served.robust.value > trained.robust.value):
        assert served is not None
        return *behind(bench, served, seed), {"defence": served.entry.id, **said}
    return *replaced(bench, trained, seed), {**price, **said}


def _attacked(plan: Plan) -> int:
    """Count the test rows that evasion is measured on, at most."""
    return max([t.rows or plan.rows for t in plan.threats if t.family == "evasion"], default=0)


def _options(given: dict[str, Any], workers: int | None) -> Options:
    said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    options = Options(**said)
    return options if workers is None else replace(options, workers=workers)


def _falling(old: Assessment, plan: Plan, named: Entry | None) -> list[Threat]:
    """Threats that the target did not withstand and that the defence (any where None) answers."""
    outcomes = {v.threat: v.outcome for v in old.verdicts}
    families = set(ANSWERED) if named is None else set(ANSWERED) & set(named.answers)
    bad = [t for t in plan.threats if outcomes.get(t.id) == "falls" and t.family in families]
    if not bad:
        what = f"that {named.id} answers" if named else "that a defence of this version answers"
        raise UsageError(f"There must be a threat {what} with the outcome 'falls'. The assessment has none.")
    return bad


def _ball(falling: Sequence[Threat], shape: tuple[int, ...]) -> Lp | None:
    """Ball to train for: that of the falling linf threat, or else of another one."""
    norms = find("evasion.pgd").norms
    threats = [t for t in falling if t.family == "evasion" and t.norm in norms]
    ball = min(threats, key=lambda t: t.norm != "linf").budget(shape) if threats else None
    return ball if isinstance(ball, Lp) else None


def _again(
    plan: Plan, *, retrained: bool, defences: Mapping[str, tuple[str, ...]]
) -> tuple[Plan, dict[str, str]]:
    """Plan of the second assessment, and which threats it leaves out, with the reason.

    Asked again are the defended threats and, if there is a new model, all that concern the model.
    """
    threats, left_out = [], {}
    for threat in plan.threats:
        asked = adaptive(threat) if threat.id in defences else threat
        if threat.family == "membership" and retrained:
            asked = _without_shadows(threat)
        elif threat.id not in defences and not (threat.family == "evasion" and retrained):
            left_out[threat.id] = "not attacked again: the defences do not touch it"
        if not asked.attacks:
            left_out[threat.id] = "needs shadow models, each trained with the defence"
        threats.append(asked)
    return plan.model_copy(update={"threats": tuple(threats)}), left_out


def _without_shadows(threat: Threat) -> Threat:
    """Ask of a membership threat only what needs no shadow models.

    They would have to be trained with the defence as well, which costs its time once per shadow.
    """
    asks = tuple(a for a in threat.attacks if "shadows" not in find(a.method).params.model_fields)
    return threat.model_copy(update={"attacks": asks})
