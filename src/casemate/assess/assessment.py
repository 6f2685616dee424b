"""The main job: load a target and its data, answer a plan's cases, draw the verdicts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casemate.assess import checks
from casemate.assess.asking import cases_of, check_classes, check_layers, untried, wanted
from casemate.assess.bench import Bench
from casemate.assess.plan import Plan, check
from casemate.assess.progress import Progress, silent
from casemate.assess.result import Assessment, Flag, Result, Verdict
from casemate.assess.run import provenance, run
from casemate.assess.store import Store
from casemate.assess.targets import Loaded, LoadedData, load_data, load_model, load_recipe
from casemate.assess.verdicts import TRAINED, draw, overtaken
from casemate.core.bfloat16 import bfloat16_copy
from casemate.core.compiled import compile_forward
from casemate.core.errors import UsageError
from casemate.core.registry import find
from casemate.core.target import Prepared
from casemate.core.workers import Workers
from casemate.ops.rng import seed_of, seeded
from casemate.ops.stats import share

UNKNOWN = "# some cases were answered before, by commands that were not recorded"


@dataclass(frozen=True)
class Options:
    """How to load a target and its data, as the user said it; stored, so that it can be done again.

    `model` and `data` are specifications (see `assess.targets`) or objects in memory; of an object
    only the name is stored.
    """

    model: Any = "builtin:fashion-cnn"
    data: Any = "builtin:fashion-mini"
    recipe: str | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    device: str = "auto"
    workers: int | None = None


def assess(
    *,
    plan: Plan,
    options: Options | None = None,
    out: Path | str,
    seed: int | None = None,
    only: str | None = None,
    rows: int | None = None,
    command: str = "",
    progress: Progress = silent,
) -> Assessment:
    """Attack a target by a plan and write results and verdicts into a folder.

    Args:
        plan: threats and attacks.
        options: the target, its data and recipe; None means the built-in ones.
        out: folder to write; finished cases in it are not run again.
        seed: base seed; None means the plan's.
        only: pattern of method or threat ids; of the others, what the folder has no answer to is listed
            as not tested.
        rows: number of test rows, instead of the plan's; poisoning and backdoors do not follow it.
        command: what reproduces this run, printed in the report.
        progress: told of each case and its steps.

    Returns:
        The assessment, as stored.

    Raises:
        UsageError: an argument, file or plan is not as it must be.
    """
    check(plan)
    if options is None:
        options = Options(model=plan.model or Options.model, data=plan.data or Options.data)
    store = Store(out)
    store.check()
    named = [spec if isinstance(spec, str) else type(spec).__name__ for spec in (options.model, options.data)]
    progress.message(f"Loading {named[0]} and {named[1]}")
    data = load_data(options.data, bounds=options.bounds)
    model = load_model(options.model, data.test, bounds=options.bounds, mean=options.mean, std=options.std,
                       device=options.device)  # fmt: skip
    options = replace(options, model=model.name, data=data.name)
    seed = plan.seed if seed is None else seed
    plan = (
        plan
        if rows is None
        else plan.model_copy(
            update={"rows": rows, "threats": tuple(t.model_copy(update={"rows": None}) for t in plan.threats)}
        )
    )
    with Workers(options.workers) as workers:
        bench, doubts = make_bench(model, data, options, store, workers, seed)
        check_layers(plan, bench)
        check_classes(plan, bench, only)
        return assess_bench(
            bench, plan, options, doubts, seed=seed, only=only, command=command, progress=progress
        )


def make_bench(
    model: Loaded, data: LoadedData, options: Options, store: Store, workers: Workers, seed: int
) -> tuple[Bench, list[Flag]]:
    """Prepare a loaded target for attack and inspect it: the bench and what is doubtful."""
    recipe, doubts = load_recipe(options.recipe, model, data)
    target, sample = model.classifier, data.test[: checks.ROWS * 2]
    with seeded(seed_of(seed, "outputs"), target.device):
        doubts += [*data.flags, *model.flags, *checks.inspect_outputs(target, sample.x)]
    prepared = Prepared(target)
    if not any(f.code == "randomised" for f in doubts):
        prepared.fast = compile_forward(prepared, sample.x)
        prepared.cheap = bfloat16_copy(prepared, sample.x)
    bench = Bench(
        target=target,
        prepared=prepared,
        test=data.test,
        train=data.train,
        recipe=recipe,
        train_many=workers.train_many,
        store=store,
        digests={"target": model.digest, "data": data.digest, "recipe": recipe.digest() if recipe else ""},
    )
    return adapted(bench, doubts, seed)


def adapted(bench: Bench, doubts: Sequence[Flag], seed: int) -> tuple[Bench, list[Flag]]:
    """Find the hooks that the target calls for and inspect its gradients as attacks will take them."""
    randomised = any(f.code == "randomised" for f in doubts)
    sample = bench.test[: checks.ROWS * 2]
    with seeded(seed_of(seed, "gradients"), bench.target.device):
        hooks, notes = checks.adaptation(bench.prepared, sample.x, randomised=randomised)
        found = checks.inspect_gradients(bench.prepared, sample, seed, hooks)
    return replace(bench, hooks=hooks), [*doubts, *notes, *found]


def assess_bench(
    bench: Bench,
    plan: Plan,
    options: Options,
    doubts: Sequence[Flag],
    *,
    seed: int,
    only: str | None,
    command: str,
    progress: Progress,
    kind: str = "assess",
    price: dict[str, Any] | None = None,
    defences: Mapping[str, tuple[str, ...]] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Assessment:
    """Answer a plan on a bench that is ready, and store the assessment.

    `defences` names, by threat, what stands between the poisoned data and the tested victims;
    `left_out` says, by threat, why it is not tested.
    """
    behind, absent = defences or {}, left_out or {}
    planned = [
        (
            threat,
            cases_of(threat, plan, bench, seed, only, behind.get(threat.id, ()))
            if threat.id not in absent
            else [],
        )
        for threat in plan.threats
    ]
    matched = [wanted(find(ask.method), threat, only) for threat in plan.threats for ask in threat.attacks]
    if only is not None and not any(matched):
        raise UsageError(f"The pattern --only '{only}' matches no method and no threat of the plan.")
    results: dict[str, Result] = {}
    left = {c.key for t, cases in planned for c in cases if not wanted(find(c.method), t, only)}
    asked = {c.key for t, cases in planned for c in cases if wanted(find(c.method), t, only)}
    kept = left - asked
    for result in run([c for _, cases in planned for c in cases], bench, progress, kept=kept):
        results[result.key] = result
    doubts = [*doubts, *overtaken(list(results.values()), bench.store)]
    verdicts = []
    for threat, cases in planned:
        if cases:
            found = [results[case.key] for case in cases]
            rest = untried(threat, cases, only)
            verdicts.append(draw(threat, found, bench.store, doubts, bench.test.shape, rest))
        else:
            why = absent.get(threat.id, f"left out by --only '{only}'")
            verdicts.append(_not_tested(threat.title, why, threat.family, threat.id))
    verdicts += [_not_tested(title, reason) for title, reason in plan.not_tested]
    command = _commands(bench.store, kept, command)
    assessment = _summary(bench, plan, options, verdicts, list(results.values()), doubts, seed, command)
    assessment = assessment.model_copy(update={"kind": kind, "price": price or {}})
    if not _already(bench.store, assessment):
        bench.store.finish(assessment)
    return bench.store.assessment()


def _not_tested(title: str, reason: str, family: str = "", threat: str = "") -> Verdict:
    name = threat or title.lower().replace(": ", "-").replace(" ", "-")
    return Verdict(threat=name, title=title, family=family, outcome="not_tested", why=reason)


def _summary(
    bench: Bench, plan: Plan, options: Options, verdicts: Sequence[Verdict], results: Sequence[Result],
    doubts: Sequence[Flag], seed: int, command: str,
) -> Assessment:  # fmt: skip
    """Build the assessment from its results alone, so that a second run writes the same bytes."""
    with seeded(seed_of(seed, "clean"), bench.target.device):
        right = int((bench.target.predict(bench.test.x).argmax(1) == bench.test.y).sum())
    times = sorted(r.provenance.time for r in results if r.provenance)
    trains = any(threat.family in TRAINED for threat in plan.threats)
    return Assessment(
        title=plan.name,
        target=options.model,
        target_digest=bench.digests.get("target", ""),
        data=options.data,
        data_digest=bench.digests.get("data", ""),
        rows=min(plan.rows, len(bench.test)),
        classes=bench.target.classes,
        shape=bench.test.shape,
        names=bench.test.names,
        preset=plan.name,
        seed=seed,
        command=command,
        started=times[0] if times else "",
        seconds=sum(r.spent.seconds for r in results),
        clean_accuracy=share(right, len(bench.test)),
        verdicts=tuple(verdicts),
        keys=tuple(r.key for r in results),
        checks=tuple(f for f in doubts if trains or f.code != "surrogate-recipe"),
        options={"plan": plan.model_dump(mode="json"), **options.__dict__},
        provenance=provenance(bench.target.device),
    )


def _commands(store: Store, kept: Collection[str], command: str) -> str:
    """List the commands that made the answers, a line each: those before this one only where some are kept."""
    if not kept or not command:
        return command
    try:
        old = store.assessment()
    except UsageError:  # a run that was stopped
        return f"{UNKNOWN}\n{command}"
    known = old.command.splitlines() if set(old.keys) & set(kept) else []
    lines = known if known and set(kept) <= set(old.keys) else [UNKNOWN, *known]
    return "\n".join(dict.fromkeys([*lines, command]))


def _already(store: Store, assessment: Assessment) -> bool:
    """Tell whether the folder holds this very assessment, up to the time and place of the run."""
    try:
        old = store.assessment()
    except UsageError:
        return False
    same = {"provenance": None, "command": ""}
    # as written: in memory the options hold tuples, and NaN is not equal to itself
    was, new = (a.model_copy(update=same).model_dump_json() for a in (old, assessment))
    return was == new
