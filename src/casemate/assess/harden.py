"""Choose a defence by its measured effect, train it, and attack the result again."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from casemate.assess.assessment import Options, assess_bench, cases_of, make_bench
from casemate.assess.bench import Bench
from casemate.assess.families.evasion import attempt
from casemate.assess.plan import Plan, Threat
from casemate.assess.progress import Progress, silent
from casemate.assess.result import Assessment, Verdict
from casemate.assess.run import run
from casemate.assess.store import Store
from casemate.assess.targets import load_data, load_model
from casemate.core.data import Samples, split
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, entries, find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp, Misclassify
from casemate.core.workers import Workers
from casemate.ops.rng import generator, seed_of

FOLDER = "hardened"
HOLDOUT = 500  # training rows kept aside to choose between trained defences
LONGER = 2  # training on attacked inputs gets this many times the epochs


@dataclass(frozen=True)
class Trained:
    """A target trained with a defence, and what that cost."""

    entry: Entry
    recipe: Recipe
    model: Classifier
    robust: float
    seconds: float


def harden(
    *,
    out: Path | str,
    defence: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Assessment:
    """Defend an assessed target where it falls, and assess it again.

    Evasion is answered by adversarial training, backdoors by screening the data or repairing the
    victim; without a name every registered defence of the right kind is tried, and the one with
    the best measured effect, on rows that the final numbers do not use, is kept.

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
    if named is not None and named.family not in ("training", "screening", "repair"):
        raise UsageError(f"A defence must be of family training, screening or repair. Got {named.id}.")
    seed = old.seed if seed is None else seed
    given = dict(old.options)
    plan = Plan.model_validate(given.pop("plan"))
    options = _options(given, workers)
    data = load_data(options.data, bounds=options.bounds)
    model = load_model(options.model, data.test, bounds=options.bounds, mean=options.mean, std=options.std,
                       device=options.device)  # fmt: skip
    store = Store(Path(out) / FOLDER)
    store.open()
    with Workers(options.workers) as pool:
        bench, doubts = make_bench(model, data, options, store, pool, seed)
        falling = _falling(old, plan, named)
        price: dict[str, Any] = {}
        trained = _train(falling, bench, named, seed, progress, price)
        if trained is not None:
            bench, doubts = _replace_target(bench, trained, store, price)
        defences = _behind(falling, bench, plan, named, seed, progress)
        again = _again(plan, falling, trained, defences)
        command = f"casemate harden {out}" + (f" --defence {named.id}" if named else "")
        price["defences"] = {k: list(v) for k, v in defences.items()}
        price["before"] = {
            "folder": "..",
            "clean_accuracy": old.clean_accuracy.__dict__ if old.clean_accuracy else None,
        }
        return assess_bench(
            bench, again, options, doubts, seed=seed, only=None, command=command, progress=progress,
            kind="harden", price=price, defences=defences,
        )  # fmt: skip


def _options(given: dict[str, Any], workers: int | None) -> Options:
    said: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    options = Options(**said)
    return options if workers is None else replace(options, workers=workers)


def _falling(old: Assessment, plan: Plan, named: Entry | None) -> list[tuple[Threat, Verdict]]:
    """Threats that the target did not withstand, with the verdicts on them."""
    verdicts = {v.threat: v for v in old.verdicts}
    bad = [(t, verdicts[t.id]) for t in plan.threats if t.id in verdicts and verdicts[t.id].outcome == "falls"]
    wanted = {"training": "evasion", "screening": "backdoor", "repair": "backdoor"}
    if named is not None:
        bad = [(t, v) for t, v in bad if t.family == wanted[named.family]]
    kinds = {"evasion", "backdoor"}
    bad = [(t, v) for t, v in bad if t.family in kinds]
    if not bad:
        what = f"that {named.id} answers" if named else "that a defence of this version answers"
        raise UsageError(f"There must be a threat {what} with the outcome 'falls'. The assessment has none.")
    return bad


def _train(
    falling: Sequence[tuple[Threat, Verdict]], bench: Bench, named: Entry | None, seed: int,
    progress: Progress, price: dict[str, Any],
) -> Trained | None:  # fmt: skip
    """Train the candidates side by side and keep the one that stands best on rows kept aside."""
    threats = [t for t, _ in falling if t.family == "evasion"]
    if not threats or (named is not None and named.family != "training"):
        return None
    if bench.train is None or bench.recipe is None:
        raise UsageError("Adversarial training needs training data and a recipe; give --data with both parts and --recipe.")
    budget = next((t.budget(bench.test.shape) for t in threats if t.norm == "linf"), threats[0].budget(bench.test.shape))
    assert budget is not None
    candidates = [named] if named is not None else entries("training")
    aside, rest = split(bench.train, min(HOLDOUT, len(bench.train) // 5), generator(seed, "holdout"))
    longer = replace(bench.recipe, epochs=LONGER * bench.recipe.epochs)
    recipes = [e.run(longer, **e.validate({"eps": budget.eps, "norm": budget.norm})) for e in candidates]
    title = ", ".join(e.id for e in candidates)
    progress.plan([title])
    progress.start("training", f"training with {title}")
    begun = time.perf_counter()
    models = bench.train_many([(r, rest, seed_of(seed, "harden")) for r in recipes], tick=progress.step)
    seconds = time.perf_counter() - begun
    progress.finish("training", None)
    found = [
        Trained(e, r, m, robust_share(m, aside, budget, seed), seconds)
        for e, r, m in zip(candidates, recipes, models, strict=True)
    ]
    best = max(found, key=lambda t: t.robust)
    price["candidates"] = {t.entry.id: {"robust_accuracy_on_rows_kept_aside": t.robust} for t in found}
    price["rows_kept_aside"] = len(aside)
    return best


def robust_share(model: Classifier, rows: Samples, budget: Lp, seed: int) -> float:
    """Share of rows that a model still gets right under 20 steps of margin PGD."""
    import torch

    pgd = find("evasion.pgd")
    right = (model.predict(rows.x).argmax(1) == rows.y).nonzero().flatten()
    found = attempt(
        pgd, Prepared(model), rows.x[right], Misclassify(rows.y[right]), budget,
        params=pgd.validate({"steps": 20, "loss": "margin"}), numbers=torch.arange(len(right)), seed=seed,
    )  # fmt: skip
    return (len(right) - int(found.fooled.sum())) / max(1, len(rows))


def _replace_target(bench: Bench, trained: Trained, store: Store, price: dict[str, Any]) -> tuple[Bench, list[Any]]:
    """Put the trained model in the target's place, save its weights, and inspect it."""
    from casemate.assess import checks
    from casemate.assess.digest import digest_net
    from casemate.core.compiled import compile_forward

    weights = {k: v.contiguous() for k, v in trained.model.net.state_dict().items()}
    recipe = trained.recipe
    save_file(weights, str(store.folder / "model.safetensors"), metadata={"recipe": recipe.name, "defence": trained.entry.id})
    price |= {
        "defence": trained.entry.id,
        "training_seconds": trained.seconds,
        "epochs": recipe.epochs,
        "weights": "model.safetensors",
    }
    prepared = Prepared(trained.model)
    sample = bench.test[: checks.ROWS * 2]
    prepared.fast = compile_forward(prepared, sample.x)
    digests = {**bench.digests, "target": digest_net(trained.model.net)}
    doubts = checks.inspect_outputs(trained.model, sample.x) + checks.inspect_gradients(prepared, sample, 0)
    return replace(bench, target=trained.model, prepared=prepared, digests=digests), doubts


def _behind(
    falling: Sequence[tuple[Threat, Verdict]], bench: Bench, plan: Plan, named: Entry | None, seed: int,
    progress: Progress,
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Choose, per backdoor threat, the screening or repair that leaves the trigger least effect."""
    chosen: dict[str, tuple[str, ...]] = {}
    if named is not None and named.family == "training":
        return chosen
    candidates = [named] if named is not None else [*entries("screening"), *entries("repair")]
    for threat in (t for t, _ in falling if t.family == "backdoor"):
        effect: dict[str, float] = {}
        for entry in candidates:
            cases = cases_of(adaptive(threat), plan, bench, seed, defences=(entry.id,))
            done = [r for r in run(cases, bench, progress) if r.status == "done"]
            if done:
                effect[entry.id] = max(r.metrics["attack_success"].value for r in done)
        if effect:
            chosen[threat.id] = (min(effect, key=lambda k: effect[k]),)
    return chosen


def adaptive(threat: Threat) -> Threat:
    """Let a poisoner who knows the defence choose the rate: the given ones and three times as many."""
    rates = sorted({rate for r in threat.rates for rate in (r, min(1.0, 3 * r))})
    return threat.model_copy(update={"rates": tuple(rates)})


def _again(
    plan: Plan, falling: Sequence[tuple[Threat, Verdict]], trained: Trained | None,
    defences: dict[str, tuple[str, ...]],
) -> Plan:  # fmt: skip
    """Plan of the second assessment: all evasion threats if there is a new model, all defended ones.

    What the defence does not touch is listed as not tested again.
    """
    threats = [
        adaptive(t) if t.id in defences else t
        for t in plan.threats
        if t.id in defences or (t.family == "evasion" and trained is not None)
    ]
    if trained is not None:
        threats += [t for t in map(_without_shadows, plan.threats) if t is not None]
    kept = {t.id for t in threats}
    why = "not attacked again: the defences do not touch it"
    left = [(t.title, why) for t in plan.threats if t.id not in kept]
    return plan.model_copy(update={"threats": tuple(threats), "not_tested": (*left, *plan.not_tested)})


def _without_shadows(threat: Threat) -> Threat | None:
    """Ask of a membership threat only what needs no shadow models.

    They would have to be trained with the defence as well, which costs its time once per shadow.
    """
    if threat.family != "membership":
        return None
    asks = tuple(a for a in threat.attacks if "shadows" not in find(a.method).params.model_fields)
    return threat.model_copy(update={"attacks": asks}) if asks else None
