"""The judge of poisoning and backdoors: victims are trained from scratch, clean and poisoned."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.result import Flag, Spent
from casemate.core.data import Poison, PoisonBudget, Samples, split
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier
from casemate.core.tick import Tick
from casemate.core.triggers import eight_bit
from casemate.core.workshop import Trojan, Workshop
from casemate.ops.differences import paired_shares
from casemate.ops.rng import generator, seed_of
from casemate.ops.stats import Estimate, mean, share

GALLERY = 6
BROKEN = 0.2  # accuracy, as a share, that a poison costs where its victims count as broken
CLEAN_SHARE = 0.05  # of the training rows: what a defender is assumed to hold in clean form


@dataclass(frozen=True)
class Victims:
    """Models of one recipe, one per repeat: on clean and poisoned training sets, and as control.

    The control is what costs the adversary no thought (see `control`); backdoors have none. A trojan's
    adversary supplies the "poisoned" models without poison, and `poisons` holds trojans.
    """

    clean: Sequence[Classifier]
    poisoned: Sequence[Classifier]
    control: Sequence[Classifier]
    poisons: Sequence[Poison | Trojan]


@dataclass(frozen=True)
class Served:
    """A trigger whose marks come as 8-bit images, as they reach a model in the world."""

    mark: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Mark images x (N, C, H, W) and round them."""
        return eight_bit(self.mark(x))


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Poison the training set `repeats` times, train fresh victims and test them.

    Images of backdoors are rounded to 8 bits before anybody sees them.
    """
    if entry.family == "backdoor" and entry.access is Classifier:
        victims = _supplied(entry, case, bench, tick)
        return _backdoor(case, victims, None, bench.test)
    recipe, train = _required(bench)
    if case.rate is None:
        raise NotApplicable("a poisoning case needs a rate")
    budget = PoisonBudget(case.rate)
    if budget.rows(len(train)) == 0:
        raise NotApplicable(f"a rate of {case.rate:g} changes no row of {len(train)}")
    spare, test = None, bench.test
    if entry.family == "poisoning" and entry.access is Workshop:
        # the adversary measures damage on rows that no victim is judged by
        spare, test = split(test, len(test) // 2, generator(case.seed, "validation"))
    victims = _train(entry, case, bench, recipe, train, spare, budget, tick)
    if entry.family == "backdoor":
        return _backdoor(case, victims, train, test)
    return _availability(case, victims, train, test)


def _required(bench: Bench) -> tuple[Recipe, Samples]:
    if bench.train is None:
        raise NotApplicable("poisoning needs the training data, and only test data was given")
    if bench.recipe is None:
        raise NotApplicable("poisoning needs a training recipe, and none was given")
    return bench.recipe, bench.train


def _train(
    entry: Entry, case: Case, bench: Bench, recipe: Recipe, train: Samples, spare: Samples | None,
    budget: PoisonBudget, tick: Tick,
) -> Victims:  # fmt: skip
    """Train clean, poisoned and control victims; clean ones are shared by the cases of a run."""
    seeds = [seed_of(case.seed, "victim", r) for r in range(case.repeats)]
    # whatever defends, the attack and its victims are the same
    attacked = case.model_copy(update={"defences": (), "defence_versions": ()}).key
    known = bench.cache.get(f"poisons {attacked}")
    poisons = known or _craft(entry, case, bench, recipe, train, spare, budget, tick)
    jobs: dict[str, tuple[Recipe, Samples, int]] = {}
    for r, (seed, poison) in enumerate(zip(seeds, poisons, strict=True)):
        jobs[f"victim {recipe.digest()} {case.data} {seed}"] = (recipe, train, seed)
        jobs[f"poisoned {attacked} {r}"] = (recipe, poison.apply(train), seed)
        if entry.family == "poisoning":
            jobs[f"control {case.key} {r}"] = (recipe, control(poison, train, seed), seed)
    missing = {name: job for name, job in jobs.items() if name not in bench.cache}
    models = bench.train_many(list(missing.values()), tick=tick)
    bench.cache.update(zip(missing, models, strict=True))
    pick = [bench.cache[name] for name in jobs]
    step = 3 if entry.family == "poisoning" else 2
    clean, poisoned, idle = pick[0::step], pick[1::step], pick[2::step] if step == 3 else []
    if bench.keep_poisoned:
        bench.cache[f"poisons {attacked}"] = poisons
    for name in missing:
        if not (name.startswith("victim") or (bench.keep_poisoned and name.startswith("poisoned"))):
            del bench.cache[name]
    defended = _defended(case, bench, recipe, poisoned, poisons, train, seeds, tick)
    return Victims(clean, defended, idle, poisons)


def _craft(
    entry: Entry, case: Case, bench: Bench, recipe: Recipe, train: Samples, spare: Samples | None,
    budget: PoisonBudget, tick: Tick,
) -> list[Poison]:  # fmt: skip
    """Poison the training set once per repeat."""
    known = train if entry.access is Samples else workshop(case, bench, recipe, train, tick, spare)
    poisons: list[Poison] = [
        entry.run(known, budget, rng=generator(case.seed, entry.id, f"{case.rate:g}", r), **case.params)
        for r in range(case.repeats)
    ]
    if not any(len(poison.rows) for poison in poisons):
        # victims of nothing would be called safe
        of = f" of class {case.params['target']}" if "target" in case.params else ""
        raise NotApplicable(f"{entry.id} finds no training row{of} to change")
    if entry.family == "backdoor" and len(train.shape) == 3:
        return [_rounded(poison) for poison in poisons]
    if entry.family == "poisoning" and len(train.shape) == 3:
        # whoever keeps the labels claims that nobody sees a change, in files as they are stored
        return [replace(p, x=eight_bit(p.x)) if _clean_label(p, train) else p for p in poisons]
    return poisons


def control(poison: Poison, train: Samples, seed: int) -> Samples:
    """Make the training set of an adversary who spends the budget of `poison` without a thought.

    Where only labels were changed, the rows are left out; where labels were kept, each value moves by
    the poison's largest change, up or down at random; otherwise the rows get random wrong labels.
    """
    rng, rows = generator(seed, "control"), poison.rows
    if torch.equal(poison.x, train.x[rows]):
        keep = torch.ones(len(train), dtype=torch.bool)
        keep[rows] = False
        return train[keep]
    if _clean_label(poison, train):
        size = (poison.x - train.x[rows]).abs().max()
        signs = torch.randint(2, poison.x.shape, generator=rng).to(poison.x) * 2 - 1
        return replace(poison, x=(train.x[rows] + size * signs).clamp(0, 1)).apply(train)
    shift = torch.randint(1, train.classes, rows.shape, generator=rng).to(rows.device)
    return Poison(rows, train.x[rows], (train.y[rows] + shift) % train.classes).apply(train)


def _clean_label(poison: Poison, train: Samples) -> bool:
    return torch.equal(poison.y, train.y[poison.rows])


def _rounded(poison: Poison) -> Poison:
    assert poison.trigger is not None
    return replace(poison, x=eight_bit(poison.x), trigger=Served(poison.trigger))


def _supplied(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Victims:
    """Let a supplier put trojans into clean models: victims of the recipe, or else the target alone."""
    if case.defences:
        raise NotApplicable("defences of training data do not apply to a supplied model")
    clean = [bench.target]
    if bench.train is not None and bench.recipe is not None:
        clean = _clean(case, bench, bench.recipe, bench.train, tick)
    trojans: list[Trojan] = [
        entry.run(model, rng=generator(case.seed, entry.id, r), tick=tick, **case.params)
        for r, model in enumerate(clean)
    ]
    served = [replace(t, trigger=Served(t.trigger)) if len(t.model.shape) == 3 else t for t in trojans]
    return Victims(clean, [t.model for t in served], [], served)


def _clean(case: Case, bench: Bench, recipe: Recipe, train: Samples, tick: Tick) -> list[Classifier]:
    """Train clean victims, or take those of another case of the run."""
    seeds = [seed_of(case.seed, "victim", r) for r in range(case.repeats)]
    names = {f"victim {recipe.digest()} {case.data} {seed}": seed for seed in seeds}
    missing = [name for name in names if name not in bench.cache]
    models = bench.train_many([(recipe, train, names[name]) for name in missing], tick=tick)
    bench.cache.update(zip(missing, models, strict=True))
    return [bench.cache[name] for name in names]


def workshop(
    case: Case, bench: Bench, recipe: Recipe, train: Samples, tick: Tick, spare: Samples | None = None
) -> Workshop:
    """Set up what a poisoner crafts with; surrogates are shared by the cases of a run."""

    def surrogates(count: int) -> list[Classifier]:
        seeds = [seed_of(case.seed, "surrogate", i) for i in range(count)]
        names = [f"surrogate {recipe.digest()} {case.data} {seed}" for seed in seeds]
        missing = [(name, seed) for name, seed in zip(names, seeds, strict=True) if name not in bench.cache]
        models = bench.train_many([(recipe, train, seed) for _, seed in missing], tick=tick)
        bench.cache.update({name: model for (name, _), model in zip(missing, models, strict=True)})
        return [bench.cache[name] for name in names]

    return Workshop(train, recipe, surrogates, spare)


def _defended(
    case: Case,
    bench: Bench,
    recipe: Recipe,
    victims: Sequence[Classifier],
    poisons: Sequence[Poison],
    train: Samples,
    seeds: Sequence[int],
    tick: Tick,
) -> Sequence[Classifier]:
    """Apply the case's screenings (train again on what is kept), trainings and repairs to the victims."""
    sets = [poison.apply(train) for poison in poisons]
    for defence in case.defences:
        entry = find(defence)
        params = entry.validate({})
        if entry.family == "screening":
            sets = [
                dirty[entry.run(victim, dirty, rng=generator(seed, entry.id), **params)]
                for victim, dirty, seed in zip(victims, sets, seeds, strict=True)
            ]
            victims = bench.train_many([(recipe, *pair) for pair in zip(sets, seeds, strict=True)], tick=tick)
        elif entry.family == "training" and case.family in entry.answers:
            recipe = entry.run(recipe, **params)
            victims = bench.train_many([(recipe, *pair) for pair in zip(sets, seeds, strict=True)], tick=tick)
        elif entry.family == "repair":
            holdout = trusted(train, seeds[0])
            victims = [
                entry.run(victim, holdout, rng=generator(seed, entry.id), **params)
                for victim, seed in zip(victims, seeds, strict=True)
            ]
        else:
            raise NotApplicable(f"{entry.id} does not defend against poisoning")
    return victims


def trusted(train: Samples, seed: int) -> Samples:
    """Clean rows that a defender is assumed to hold: 5% of the training set, at least 100."""
    n = min(len(train), max(100, round(CLEAN_SHARE * len(train))))
    return train[torch.randperm(len(train), generator=generator(seed, "trusted"))[:n]]


def accuracy(model: Classifier, test: Samples) -> float:
    """Share of test rows that a model classifies correctly."""
    return float((model.predict(test.x).argmax(1) == test.y).double().mean())


def over_victims(values: Sequence[float], rows: int) -> Estimate:
    """Mean share over victims, with the wider of two intervals, cut to [0, 1].

    Student's over the victims says how much they differ; three that happen to agree would make it
    vanish, so it is no narrower than Wilson's for the rows of one victim.
    """
    pooled = share(round(sum(values) / len(values) * rows), rows)
    if len(values) == 1:
        return pooled
    found = mean(values)
    low, high = min(found.low, pooled.low, found.value), max(found.high, pooled.high, found.value)
    return Estimate(found.value, max(0.0, low), min(1.0, high), rows * len(values))


def over_pairs(before: Sequence[Tensor], after: Sequence[Tensor]) -> Estimate:
    """Mean difference before - after of two shares over victims, from the rows each gets right (N,) bool.

    As wide as the wider of two intervals: Student's over the victims, and the mean of Newcombe's
    for the rows that a victim is tested on, which are the same for all. So victims that happen to
    agree on few rows prove little.
    """
    pairs = [paired_shares(a.numpy(), b.numpy()) for a, b in zip(after, before, strict=True)]
    found = mean([pair.value for pair in pairs])
    low, high = (float(np.mean([getattr(pair, end) for pair in pairs])) for end in ("low", "high"))
    if len(pairs) == 1:
        return Estimate(found.value, low, high, 1)
    low, high = min(found.low, low, found.value), max(found.high, high, found.value)
    return Estimate(found.value, max(-1.0, low), min(1.0, high), len(pairs))


def _right(model: Classifier, test: Samples) -> Tensor:
    return (model.predict(test.x).argmax(1) == test.y).cpu()


def _availability(case: Case, victims: Victims, train: Samples, test: Samples) -> Measured:
    """Judge a poison that should lower accuracy, beside a thoughtless one of equal budget."""
    right = {
        name: [_right(m, test) for m in models]
        for name, models in (
            ("clean", victims.clean), ("poisoned", victims.poisoned), ("control", victims.control),
        )
    }  # fmt: skip
    shares = {name: [float(r.double().mean()) for r in found] for name, found in right.items()}
    poison = victims.poisons[0]
    assert isinstance(poison, Poison)
    return Measured(
        headline="accuracy_drop",
        metrics={
            "accuracy_drop": over_pairs(right["clean"], right["poisoned"]),
            "accuracy": over_victims(shares["poisoned"], len(test)),
        },
        baseline={
            "accuracy_drop": over_pairs(right["clean"], right["control"]),
            "accuracy": over_victims(shares["control"], len(test)),
        },
        clean={"accuracy": over_victims(shares["clean"], len(test))},
        flags=_few_victims(case.repeats),
        tensors=_pictures(poison, train),
        spent=Spent(),
        notes={"poisoned_rows": len(poison.rows), "training_rows": len(train), "victims": case.repeats},
    )


def _backdoor(case: Case, victims: Victims, train: Samples | None, test: Samples) -> Measured:
    """Judge a trigger on rows of other classes that the clean model gets right (R5)."""
    success, false, counts = [], [], []
    for clean, poisoned, poison in zip(victims.clean, victims.poisoned, victims.poisons, strict=True):
        rows = eligible(clean, test, poison)
        if not len(rows):
            raise NotApplicable("no test row of another class is classified correctly by the clean model")
        success.append(hits(poisoned, rows, poison))
        false.append(hits(clean, rows, poison))
        counts.append(len(rows))
    poisoned_accuracy = [accuracy(m, test) for m in victims.poisoned]
    clean_accuracy = [accuracy(m, test) for m in victims.clean]
    n = min(counts)
    return Measured(
        headline="attack_success",
        metrics={
            "attack_success": over_victims(success, n),
            "accuracy": over_victims(poisoned_accuracy, len(test)),
        },
        baseline={"attack_success": over_victims(false, n)},
        clean={"accuracy": over_victims(clean_accuracy, len(test)), "attack_success": over_victims(false, n)},
        flags=_few_victims(len(victims.poisoned)) + _broken_victims(poisoned_accuracy, clean_accuracy),
        tensors=_triggered(victims, test) | _planted(victims.poisons[0], train),
        notes={
            **_visibility(victims.poisons[0], train),
            "victims": len(victims.poisoned),
            "target": victims.poisons[0].target,
        },
    )


def _visibility(poison: Poison | Trojan, train: Samples | None) -> dict[str, object]:
    """Say how many rows changed and how much, in decibels and levels of 255."""
    if train is None or isinstance(poison, Trojan):
        return {"poisoned_rows": 0}
    delta = (poison.x - train.x[poison.rows]).double()
    power = float(delta.square().mean())
    return {
        "poisoned_rows": len(poison.rows),
        "training_rows": len(train),
        "psnr_db": round(-10 * math.log10(power), 2) if power > 0 else math.inf,
        "linf_levels": round(255 * float(delta.abs().max()), 2) if delta.numel() else 0.0,
    }


def eligible(clean: Classifier, test: Samples, poison: Poison | Trojan) -> Samples:
    """Test rows of other classes than the target's that the clean model gets right."""
    right = clean.predict(test.x).argmax(1) == test.y
    return test[right & (test.y != poison.target)]


def hits(model: Classifier, rows: Samples, poison: Poison | Trojan) -> float:
    """Share of rows that a model gives to the target class once they carry the trigger."""
    assert poison.trigger is not None
    assert poison.target is not None
    hit = model.predict(poison.trigger(rows.x)).argmax(1).eq(poison.target)
    return float(hit.double().mean())


def _few_victims(count: int) -> tuple[Flag, ...]:
    if count >= 3:
        return ()
    return (
        Flag(code="few-victims", detail=f"{count} victims; three or more tell how much trainings differ"),
    )


def _broken_victims(poisoned: Sequence[float], clean: Sequence[float]) -> tuple[Flag, ...]:
    """Doubt a trigger whose victims have lost much accuracy: one class for every input is no backdoor."""
    left, before = sum(poisoned) / len(poisoned), sum(clean) / len(clean)
    if left > before - BROKEN:
        return ()
    detail = (
        f"poisoned models are right on {left:.0%} of the inputs without the trigger, others on {before:.0%}"
    )
    return (Flag(code="broken-victims", detail=detail),)


def _pictures(poison: Poison, train: Samples, kind: str = "gallery") -> dict[str, Tensor]:
    show = poison.rows[:GALLERY]
    return {
        f"{kind}_x": train.x[show],
        f"{kind}_adv": poison.x[:GALLERY],
        f"{kind}_y": train.y[show],
        f"{kind}_pred": poison.y[:GALLERY],
    }


def _planted(poison: Poison | Trojan, train: Samples | None) -> dict[str, Tensor]:
    if train is None or isinstance(poison, Trojan):
        return {}
    return _pictures(poison, train, "planted")


def _triggered(victims: Victims, test: Samples) -> dict[str, Tensor]:
    poison, model = victims.poisons[0], victims.poisoned[0]
    assert poison.trigger is not None
    rows = eligible(victims.clean[0], test, poison)[slice(GALLERY)]
    marked = poison.trigger(rows.x)
    return {
        "gallery_x": rows.x,
        "gallery_adv": marked,
        "gallery_y": rows.y,
        "gallery_pred": model.predict(marked).argmax(1),
    }
