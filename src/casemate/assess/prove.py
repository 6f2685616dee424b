"""Run methods on their reference scenes: clean, random baseline, attack, bar, holds or not."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.dials import CLEAN, FLIPS, dialled, rises
from casemate.assess.digest import digest, digest_tensors
from casemate.assess.exhibits import certified, divided, exhibit
from casemate.assess.families import judge_of
from casemate.assess.progress import Progress, silent
from casemate.assess.store import Store
from casemate.assess.surrogates import naming
from casemate.assess.sweep import sweep
from casemate.core.compiled import compile_forward
from casemate.core.data import Samples, split
from casemate.core.ensemble import mean_logits
from casemate.core.errors import NotApplicable
from casemate.core.online import online
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, entries
from casemate.core.registry import find as find_method
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.core.workers import Done, Job, Selection, Workers, untold
from casemate.ops.rng import generator, seed_of, seeded
from casemate.ops.stats import Estimate, average
from casemate.scenes import find
from casemate.scenes.scene import (
    Bar,
    CertifiedScene,
    DefenceScene,
    DialScene,
    DividedScene,
    EvasionScene,
    ExhibitScene,
    ScanningScene,
    Scene,
    TargetedScene,
    TrainingScene,
)


class Number(BaseModel):
    """A named estimate."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str
    value: float
    low: float
    high: float
    n: int


class Proof(BaseModel):
    """What a scene showed; `error` says why there is nothing to show."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    id: str
    scene: str
    clean: Number | None = None
    baseline: Number | None = None
    attack: Number | None = None
    bar: str
    holds: bool
    seconds: float
    seed: int
    source: str
    error: str = ""


def prove(
    ids: Sequence[str] = (),
    *,
    seeds: Sequence[int] = (0,),
    workers: int | None = None,
    progress: Progress = silent,
) -> Iterator[Proof]:
    """Run the scenes of methods.

    Args:
        ids: methods, by any of their names; none means all.
        seeds: each scene is run once per seed.
        workers: processes that train victims; None means one per core.
        progress: told of each scene and its steps.

    Yields:
        One proof per method and seed; a scene that crashes does not hold.
    """
    chosen = [find_method(name) for name in ids] or entries()
    progress.plan([f"{entry.id}, seed {seed}" for entry in chosen for seed in seeds])
    with Remembering(workers) as pool, TemporaryDirectory() as folder:
        for entry in chosen:
            for seed in seeds:
                title = f"{entry.id}, seed {seed}"
                progress.start(title, title)
                yield _prove(entry, seed, pool, Path(folder), progress)
                progress.finish(title, None)


class Remembering(Workers):
    """Workers that train no model twice: scenes share victims and surrogates of equal recipe, data and seed."""

    def __init__(self, count: int | None = None) -> None:
        super().__init__(count)
        self._known: dict[str, Classifier] = {}

    def train_many(
        self, jobs: Sequence[Job], *, tick: Tick = ignore, done: Done = untold
    ) -> list[Classifier]:
        """Train what is new, side by side, and recall the rest."""
        names = [_name(job) for job in jobs]
        new = {name: job for name, job in zip(names, jobs, strict=True) if name not in self._known}
        if new:
            self._known.update(zip(new, super().train_many(list(new.values()), tick=tick), strict=True))
        for i, name in enumerate(names):
            done(i, self._known[name])
        return [self._known[name] for name in names]


def _name(job: Job) -> str:
    recipe, data, seed = job
    samples = data.samples() if isinstance(data, Selection) else data
    return digest(recipe.digest(), digest_tensors({"x": samples.x, "y": samples.y}), str(seed))


def _prove(entry: Entry, seed: int, pool: Workers, folder: Path, progress: Progress) -> Proof:
    begun = time.perf_counter()
    try:
        scene = find(entry.id)
    except NotApplicable as error:
        return Proof(
            id=entry.id, scene="", bar="", holds=False, seconds=0, seed=seed, source="", error=str(error)
        )
    said = {"id": entry.id, "scene": scene.title, "bar": str(scene.bar), "seed": seed, "source": scene.source}
    try:
        clean, baseline, attack, holds = _show(scene, entry, seed, pool, Store(folder), progress)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Proof(**said, holds=False, seconds=time.perf_counter() - begun, error=reason)
    seconds = time.perf_counter() - begun
    return Proof(**said, clean=clean, baseline=baseline, attack=attack, holds=holds, seconds=seconds)


Shown = tuple[Number, Number, Number, bool]


def _show(scene: Scene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress) -> Shown:
    match scene:
        case EvasionScene():
            return _evading(scene, entry, seed, pool, store, progress)
        case TrainingScene():
            return _training(scene, entry, seed, pool, store, progress)
        case DialScene():
            return _dialling(scene, entry, seed, pool, progress)
        case TargetedScene():
            return _aiming(scene, entry, seed, pool, store, progress)
        case ExhibitScene():
            return _exhibiting(scene, seed, pool, progress)
        case CertifiedScene():
            return _certifying(scene, entry, seed, pool, progress)
        case ScanningScene():
            return _sweeping(scene, entry, seed, pool, progress)
        case DividedScene():
            return _dividing(scene, entry, seed, pool, progress)
        case DefenceScene() if scene.attack.startswith("evasion"):
            return _hardening(scene, entry, seed, pool, store, progress)
        case DefenceScene():
            return _cleaning(scene, entry, seed, pool, store, progress)


def _evading(
    scene: EvasionScene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress
) -> Shown:
    """Attack a finished model, by way of the adversary's own models where the scene names some."""
    train, test = scene.data()
    jobs = [(recipe(), train, seed_of(seed, "surrogate", i)) for i, recipe in enumerate(scene.surrogates)]
    if scene.recipe is not None:
        jobs.append((scene.recipe(), train, seed_of(seed, "victim")))
    trained = pool.train_many(jobs, tick=progress.step) if jobs else []
    assert scene.target is not None or scene.recipe is not None, "a scene needs a target or a recipe"
    victim = scene.target() if scene.target is not None else trained.pop()
    bench = _bench(victim, train, test, None, pool, store)
    if trained:
        bench = replace(bench, surrogate=Prepared(mean_logits(trained)))
    case = _case(entry, scene.params, scene.rows, seed, budget=scene.budget)
    if entry.family == "evasion":
        case = case.model_copy(update={"crafted_on": tuple(naming(job[0]) for job in jobs[: len(trained)])})
    return _numbers(judge_of(entry.family)(entry, case, bench, progress.step), scene.bar)


def _exhibiting(scene: ExhibitScene, seed: int, pool: Workers, progress: Progress) -> Shown:
    """Attack a defence that hides, naively and knowing it."""
    shown = exhibit(scene, seed, pool, progress.step)
    holds = meets(scene.bar, shown.adapted, shown.noise) and shown.naive.value <= scene.naive
    return (
        _number(f"accuracy; naive attack fools {100 * shown.naive.value:.1f}%", shown.clean),
        _number(scene.bar.metric, shown.noise),
        _number(scene.bar.metric, shown.adapted),
        holds and shown.lost <= scene.price,
    )


def _certifying(scene: CertifiedScene, entry: Entry, seed: int, pool: Workers, progress: Progress) -> Shown:
    """Certify models trained with and without noise, and attack what is certain."""
    found = certified(scene, seed, pool, progress.step)
    return (
        _number(f"accuracy; certified rows broken: {found.broken}", found.clean),
        _number(scene.bar.metric, found.without),
        _number(scene.bar.metric, found.certified),
        meets(scene.bar, found.certified, found.without) and found.broken == 0,
    )


def _dividing(scene: DividedScene, entry: Entry, seed: int, pool: Workers, progress: Progress) -> Shown:
    """Certify nets that vote, and change as many training rows as they should withstand."""
    found = divided(scene, entry, seed, pool, progress.step)
    curve = ", ".join(f"{100 * share:.0f}% at {r}" for r, share in found.curve)
    return (
        _number(f"accuracy; certified {curve} changes; broken: {found.broken}", found.clean),
        _number(scene.bar.metric, found.without),
        _number(scene.bar.metric, found.certified),
        meets(scene.bar, found.certified, found.without) and found.broken == 0 and found.lost <= scene.price,
    )


def _sweeping(scene: ScanningScene, entry: Entry, seed: int, pool: Workers, progress: Progress) -> Shown:
    """Scan clean and backdoored models."""
    found = sweep(scene, entry, seed, pool, progress.step)
    return (
        _number("accuracy", found.accuracy),
        _number("false_alarm_rate", found.false_alarms),
        _number(scene.bar.metric, found.found),
        meets(scene.bar, found.found, found.false_alarms),
    )


def _training(
    scene: TrainingScene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress
) -> Shown:
    """Poisons train their own victims; a membership attack gets one victim trained here."""
    found, without = [], []
    for data in (scene.data, *scene.more):
        train, test = data()
        recipe = scene.recipe()
        if scene.history is not None:
            past, train = split(train, scene.history.rows, generator(seed, "history"))
            job = scene.history.recipe(), past, seed_of(seed, "history")
            recipe = online(recipe, pool.train_many([job], tick=progress.step)[0])
        if scene.train_rows is not None:
            train = _some(train, scene.train_rows, seed)
        victim = pool.train_many([(recipe, train, seed_of(seed, "victim"))], tick=progress.step)[0]
        bench = _bench(victim, train, test, recipe, pool, store)
        found.append(_played(scene, entry, scene.params, bench, seed, progress))
        if scene.ablation:
            params = {**scene.params, **scene.ablation}
            without.append(_played(scene, entry, params, bench, seed, progress))
    return _against(scene, _averaged(found, scene.bar.metric), without)


def _played(
    scene: TrainingScene, entry: Entry, params: Mapping[str, Any], bench: Bench, seed: int, progress: Progress
) -> Measured:
    case = _case(entry, params, scene.rows, seed, rate=scene.rate, repeats=scene.repeats)
    return judge_of(entry.family)(entry, case, bench, progress.step)


def _against(scene: TrainingScene, found: Measured, without: Sequence[Measured]) -> Shown:
    """Compare with the baseline, or with the method without what it is about; the price counts as well."""
    metric = scene.bar.metric
    clean, baseline, measured, holds = _numbers(found, scene.bar)
    if without:
        idle = _averaged(without, metric).metrics[metric]
        said = ", ".join(f"{name} {value}" for name, value in scene.ablation.items())
        baseline, holds = (
            _number(f"{metric} with {said}", idle),
            meets(scene.bar, found.metrics[metric], idle),
        )
    if scene.price is not None:
        left = found.metrics["accuracy"].value
        measured = _number(f"{metric} at accuracy {left:.3f}", found.metrics[metric])
        holds = holds and found.clean["accuracy"].value - left <= scene.price
    return clean, baseline, measured, holds


def _dialling(scene: DialScene, entry: Entry, seed: int, pool: Workers, progress: Progress) -> Shown:
    """Poison at several values of a setting; the detector's AUC stands behind each error."""
    found = dialled(scene, entry, seed, pool, progress.step)
    said = {key: f"{found.error[key].value:.3f} (AUC {found.seen[key]:.2f})" for key in found.seen}
    swept = ", ".join(f"{said[value]} at {scene.dial} {value:g}" for value in scene.sweep)
    measured, idle = found.error[scene.at], found.error[scene.harmless]
    steady = all(rises([each[v] for v in scene.sweep]) for each in (
        {key: e.value for key, e in found.error.items()}, found.seen,
    ))  # fmt: skip
    return (
        _number(f"error; with {FLIPS} {said[FLIPS]}; {swept}", found.error[CLEAN]),
        _number(f"{scene.bar.metric} at {scene.dial} {scene.harmless:g}, {said[scene.harmless]}", idle),
        _number(f"{scene.bar.metric} at {scene.dial} {scene.at:g}, {said[scene.at]}", measured),
        meets(scene.bar, measured, idle) and steady,
    )


def _averaged(found: Sequence[Measured], metric: str) -> Measured:
    """Average a metric, its baseline and the clean value over independent data sets."""
    if len(found) == 1:
        return found[0]
    name = next(iter(found[0].clean))
    return replace(
        found[0],
        metrics={metric: average([f.metrics[metric] for f in found])},
        baseline={metric: average([f.baseline[metric] for f in found])},
        clean={name: average([f.clean[name] for f in found])},
    )


def _aiming(
    scene: TargetedScene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress
) -> Shown:
    """The judge of targeted poisons trains all victims, so that the bench needs no target of its own."""
    train, test = scene.data()
    recipe = scene.recipe()
    with seeded(seed_of(seed, "no target"), train.x.device):
        nobody = Classifier(recipe.make().eval(), train.classes, train.shape)
    bench = _bench(nobody, train, test, recipe, pool, store)
    case = _case(entry, scene.params, scene.aims, seed, budget=scene.budget)
    return _numbers(judge_of(entry.family)(entry, case, bench, progress.step), scene.bar)


def _hardening(
    scene: DefenceScene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress
) -> Shown:
    """Train with and without the defence, attack both."""
    train, test = scene.data()
    plain = scene.recipe()
    hard: Recipe = entry.run(plain, **entry.validate(scene.params))
    jobs = [(recipe, train, seed_of(seed, "victim")) for recipe in (plain, hard)]
    before, after = (
        _attacked(model, scene, seed, train, test, pool, store, progress)
        for model in pool.train_many(jobs, tick=progress.step)
    )
    return _before_after(before, after, scene)


def _attacked(
    model: Classifier, scene: DefenceScene, seed: int, train: Samples, test: Samples, pool: Workers,
    store: Store, progress: Progress,
) -> Measured:  # fmt: skip
    attack = find_method(scene.attack)
    bench = _bench(model, train, test, None, pool, store)
    case = _case(attack, scene.attack_params, scene.rows, seed, budget=scene.budget)
    return judge_of(attack.family)(attack, case, bench, progress.step)


def _cleaning(
    scene: DefenceScene, entry: Entry, seed: int, pool: Workers, store: Store, progress: Progress
) -> Shown:
    """Poison victims with and without the screening, repair or training behind; the worst attack counts."""
    train, test = scene.data()
    recipe = scene.recipe()
    victim = pool.train_many([(recipe, train, seed_of(seed, "victim"))], tick=progress.step)[0]
    bench = _bench(victim, train, test, recipe, pool, store)
    shown = []
    for name, rate in {scene.attack: scene.rate, **scene.also}.items():
        attack, found = find_method(name), []
        params = scene.attack_params if name == scene.attack else {}
        for defences in ((), (entry.id,)):
            case = _case(
                attack, params, scene.rows, seed, rate=rate, repeats=scene.repeats, budget=scene.budget
            )
            case = case.model_copy(update={"defences": defences})
            found.append(judge_of(attack.family)(attack, case, bench, progress.step))
        shown.append(_before_after(found[0], found[1], scene))
    # an attack that breaks bar or price comes before those that do not
    worst = max(shown, key=lambda each: (not each[3], each[2].value))
    return worst


def _before_after(before: Measured, after: Measured, scene: DefenceScene) -> Shown:
    """Compare an attack without and with a defence; the price in clean accuracy counts as well."""
    metric = scene.bar.metric
    undefended, defended = before.metrics[metric], after.metrics[metric]
    without, cost = _accuracy(before), _accuracy(after)
    holds = meets(scene.bar, defended, undefended) and without.value - cost.value <= scene.price
    return (
        _number("accuracy with the defence", cost),
        _number(f"{metric} without the defence", undefended),
        _number(f"{metric} with the defence", defended),
        holds,
    )


def _accuracy(found: Measured) -> Estimate:
    return found.metrics["accuracy"] if "accuracy" in found.metrics else found.clean["accuracy"]


def meets(bar: Bar, measured: Estimate, baseline: Estimate) -> bool:
    """Tell whether a number meets a bar, is far enough from the baseline, and clear of its interval."""
    if bar.at_least is not None:
        apart = measured.low > baseline.high and measured.value - baseline.value >= bar.gap
        enough = measured.value >= max(bar.at_least, bar.times * baseline.value)
        return (apart or bar.gap == 0) and enough
    assert bar.at_most is not None
    apart = measured.high < baseline.low and baseline.value - measured.value >= bar.gap
    return apart and measured.value <= bar.at_most


def _numbers(found: Measured, bar: Bar) -> Shown:
    measured, baseline = found.metrics[bar.metric], found.baseline[bar.metric]
    name, clean = next(iter(found.clean.items()))
    holds = meets(bar, measured, baseline)
    return _number(name, clean), _number(bar.metric, baseline), _number(bar.metric, measured), holds


def _number(name: str, estimate: Estimate) -> Number:
    return Number(name=name, **estimate.__dict__)


def _bench(
    target: Classifier, train: Samples, test: Samples, recipe: Recipe | None, pool: Workers, store: Store
) -> Bench:
    prepared = Prepared(target)
    prepared.fast = compile_forward(prepared, test.x[:64])
    digests = {"data": "scene", "target": "scene"}
    return Bench(target, prepared, test, train, recipe, pool.train_many, store, digests)


def _case(entry: Entry, params: Mapping[str, Any], rows: int, seed: int, **settings: Any) -> Case:
    return Case(
        method=entry.id, version=entry.version, params=entry.validate(params), data="scene", rows=rows,
        seed=seed, **settings,
    )  # fmt: skip


def _some(train: Samples, count: int, seed: int) -> Samples:
    return train[torch.randperm(len(train), generator=generator(seed, "train rows"))[:count]]
