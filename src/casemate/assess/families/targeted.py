"""The judge of targeted poisons: a victim of its own for each aim, with the poison and with noise in its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.families.poisoning import over_pairs, over_victims
from casemate.assess.result import Flag, Spent
from casemate.core.data import Poison, Samples
from casemate.core.errors import NotApplicable
from casemate.core.features import Halves, halves
from casemate.core.heads import fit_head
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, find
from casemate.core.tampering import VICTIMS, Tampering
from casemate.core.target import Classifier
from casemate.core.tick import Tick
from casemate.core.workshop import Aims, Workshop
from casemate.ops.rng import generator, seed_of
from casemate.ops.stats import Estimate, share

GALLERY = 6
MOST_AIMS = 100  # each costs two victims
FEW_AIMS = 20


@dataclass(frozen=True)
class Stage:
    """Where the play takes place: rows that may be poisoned, rows to aim at, and how victims come about.

    `train` fits victims to changed copies of `clean`, one each, and names a seed for each; `surrogates`
    are the adversary's models.
    """

    clean: Samples
    test: Samples
    recipe: Recipe
    train: Callable[[Sequence[Samples], str], list[Classifier]]
    surrogates: Callable[[int], Sequence[Classifier]]
    notes: dict[str, object] = field(default_factory=dict)


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Draw aims, craft a poison for each, train a victim on each and ask it for its aim."""
    budget, stage = case.budget, _stage(case, bench, tick)
    assert isinstance(budget, Tampering)
    clean = stage.train([stage.clean], "clean")[0]
    aims = _aims(stage.test, clean, min(case.rows, MOST_AIMS), case.seed)
    workshop = Workshop(stage.clean, stage.recipe, stage.surrogates)
    rng = generator(case.seed, entry.id, str(budget))
    crafted = entry.run(workshop, aims, budget, rng=rng, tick=tick, **case.params)
    if len(crafted) != len(aims):
        raise ValueError(f"{entry.id} returned {len(crafted)} poisons for {len(aims)} aims.")
    poisons = [in_budget(poison, stage.clean, budget) for poison in crafted]
    noise = [_noise(poison, stage.clean, budget, case.seed, i) for i, poison in enumerate(poisons)]
    found = stage.train([poison.apply(stage.clean) for poison in poisons], "poisoned")
    plain = stage.train([poison.apply(stage.clean) for poison in noise], "poisoned")
    hit, by_noise = _hits(found, aims), _hits(plain, aims)
    right = [_right(model, stage.test) for model in found]
    return Measured(
        headline="attack_success",
        metrics={
            "attack_success": share(int(hit.sum()), len(aims)),
            "accuracy": over_victims([float(r.double().mean()) for r in right], len(stage.test)),
            "accuracy_drop": over_pairs([_right(clean, stage.test)] * len(right), right),
        },
        baseline={
            "attack_success": share(int(by_noise.sum()), len(aims)),
            "accuracy": over_victims([_accuracy(m, stage.test) for m in plain], len(stage.test)),
        },
        clean={
            "accuracy": share(int(_right(clean, stage.test).sum()), len(stage.test)),
            "attack_success": _false_success(stage, aims),
        },
        flags=_few_aims(aims),
        tensors=_evidence(poisons, stage.clean, aims, hit),
        spent=Spent(),
        notes={**stage.notes, **_sizes(poisons, stage.clean, budget)},
    )


def in_budget(poison: Poison, clean: Samples, budget: Tampering) -> Poison:
    """Cut a poison to its budget and round it as 8-bit pictures are: what is judged is never more.

    Labels are those that the rows had; rows beyond the number allowed are dropped.
    """
    rows = poison.rows[: budget.poisons]
    base = clean.x[rows]
    steps = int(255 * budget.eps + 1e-6)  # whole grey levels, so that rounding leaves the ball at no corner
    levels = ((poison.x[: budget.poisons] - base) * 255).round().clamp(-steps, steps)
    return Poison(rows, (base + levels / 255).clamp(0, 1), clean.y[rows])


def _noise(poison: Poison, clean: Samples, budget: Tampering, seed: int, i: int) -> Poison:
    """Put noise of full size into the rows that the poison took."""
    sign = torch.randint(2, poison.x.shape, generator=generator(seed, "noise", i)) * 2 - 1
    base = clean.x[poison.rows]
    return in_budget(Poison(poison.rows, base + budget.eps * sign.to(base), poison.y), clean, budget)


def _stage(case: Case, bench: Bench, tick: Tick) -> Stage:
    if not isinstance(case.budget, Tampering):
        raise NotApplicable("a targeted case needs a budget of changed training rows")
    if bench.train is None or not len(bench.train):
        raise NotApplicable("poisoning needs the training data, and only test data was given")
    if bench.recipe is None:
        raise NotApplicable("poisoning needs a training recipe, and none was given")
    if len(bench.train.y.unique()) < 2:
        raise NotApplicable("a targeted poison needs training rows of two classes or more")
    train, test = (_eight_bit(part) for part in (bench.train, bench.test))
    build = _frozen if case.budget.victim == "frozen" else _scratch
    return build(case, case.budget, bench, bench.recipe, train, test, tick)


def _scratch(
    case: Case, budget: Tampering, bench: Bench, recipe: Recipe, train: Samples, test: Samples, tick: Tick
) -> Stage:
    """Victims that learn everything from the poisoned rows, each from a start of its own."""

    def fit(sets: Sequence[Samples], role: str) -> list[Classifier]:
        seeds = [seed_of(case.seed, "victim", role, i) for i in range(len(sets))]
        if role == "poisoned":
            return _defended(case, bench, recipe, sets, seeds, tick)
        jobs = [(recipe, data, seed) for data, seed in zip(sets, seeds, strict=True)]
        return bench.train_many(jobs, tick=tick)

    def surrogates(count: int) -> Sequence[Classifier]:
        seeds = [seed_of(case.seed, "surrogate", i) for i in range(count)]
        return _kept(bench, tick, [(recipe, train, seed) for seed in seeds], f"targeted {case.data}")

    notes: dict[str, object] = {"victim": VICTIMS["scratch", budget.knows], "training_rows": len(train)}
    return Stage(train, test, recipe, fit, surrogates, notes)


def _defended(
    case: Case, bench: Bench, recipe: Recipe, sets: Sequence[Samples], seeds: Sequence[int], tick: Tick
) -> list[Classifier]:
    """Train victims behind the case's screenings (of each set, given a victim of it) and trainings."""
    for defence in case.defences:
        entry = find(defence)
        params = entry.validate({})
        if entry.family == "screening":
            jobs = [(recipe, data, seed) for data, seed in zip(sets, seeds, strict=True)]
            victims = bench.train_many(jobs, tick=tick)
            sets = [
                data[entry.run(victim, data, rng=generator(seed, entry.id), **params)]
                for victim, data, seed in zip(victims, sets, seeds, strict=True)
            ]
        elif entry.family == "training" and "targeted" in entry.answers:
            recipe = entry.run(recipe, **params)
        else:
            raise NotApplicable(f"{entry.id} does not defend against targeted poisons")
    jobs = [(recipe, data, seed) for data, seed in zip(sets, seeds, strict=True)]
    return bench.train_many(jobs, tick=tick)


def _frozen(
    case: Case, budget: Tampering, bench: Bench, recipe: Recipe, train: Samples, test: Samples, tick: Tick
) -> Stage:
    """Victims that learn a new head for two classes on the features of an extractor."""
    if case.defences:
        raise NotApplicable("defences are tried on victims that are trained from scratch")
    pair = _pair(train, budget, case.seed)
    own = torch.isin(train.y, pair)
    if len(train.y[~own].unique()) >= 2:
        apart, seen = train[~own], "trained on the rows of all other classes"
    else:
        half = torch.randperm(len(train), generator=generator(case.seed, "half")) < len(train) // 2
        apart, seen, own = train[half], "trained on the other half of the rows", own & ~half
    clean = _few(_two(train[own], pair), budget.per_class, case.seed)
    extractors = [(recipe, apart, seed_of(case.seed, "extractor", i)) for i in range(1)]
    victim = halves(_kept(bench, tick, extractors, f"targeted {case.data}")[0])
    test = _two(test[torch.isin(test.y, pair)], pair)

    def fit(sets: Sequence[Samples], role: str) -> list[Classifier]:
        return fit_heads(victim, sets)

    def surrogates(count: int) -> Sequence[Classifier]:
        if budget.knows == "extractor" and count == 1:
            return fit_heads(victim, [clean])
        jobs = [(recipe, apart, seed_of(case.seed, "surrogate extractor", i)) for i in range(count)]
        found = [halves(model) for model in _kept(bench, tick, jobs, f"targeted {case.data}")]
        if budget.knows == "extractor":
            found[0] = victim
        return [fit_heads(each, [clean])[0] for each in found]

    notes: dict[str, object] = {
        "victim": VICTIMS["frozen", budget.knows],
        "extractor": f"{seen}, {len(apart)} rows",
        "classes": " and ".join(clean.names) or " and ".join(map(str, pair.tolist())),
        "training_rows": len(clean),
    }
    return Stage(clean, test, recipe, fit, surrogates, notes)


def fit_heads(extractor: Halves, sets: Sequence[Samples]) -> list[Classifier]:
    """Fit a new head to each set of rows; the problem is convex, so that no start matters."""
    with torch.no_grad():
        features = torch.stack([_features(extractor, data.x) for data in sets])
    weights = fit_head(features, torch.stack([data.y for data in sets]), sets[0].classes)
    return [extractor.with_head(w) for w in weights]


def _features(extractor: Halves, x: Tensor) -> Tensor:
    return torch.cat([extractor.features(part) for part in x.split(250)])


def _kept(
    bench: Bench, tick: Tick, jobs: Sequence[tuple[Recipe, Samples, int]], name: str
) -> list[Classifier]:
    """Train models that several cases of a run share."""
    names = [f"{name} {recipe.digest()} {sorted(set(d.y.tolist()))} {len(d)} {s}" for recipe, d, s in jobs]
    missing = {n: job for n, job in zip(names, jobs, strict=True) if n not in bench.cache}
    bench.cache.update(zip(missing, bench.train_many(list(missing.values()), tick=tick), strict=True))
    return [bench.cache[n] for n in names]


def _pair(train: Samples, budget: Tampering, seed: int) -> Tensor:
    """Draw the two classes that the victim tells apart, among those with enough rows."""
    enough = (train.y.bincount() >= 2).nonzero().flatten()
    if budget.classes is not None:
        enough = enough[torch.isin(enough, torch.tensor(budget.classes))]
    if len(enough) < 2:
        raise NotApplicable("a targeted poison needs two classes with at least two training rows each")
    return enough[torch.randperm(len(enough), generator=generator(seed, "pair"))[:2]].sort().values


def _two(rows: Samples, pair: Tensor) -> Samples:
    names = tuple(rows.names[i] for i in pair.tolist()) if rows.names else ()
    return Samples(rows.x, (rows.y == pair[1]).long(), 2, names)


def _few(rows: Samples, per_class: int, seed: int) -> Samples:
    """Draw rows of both classes, at most `per_class` each."""
    order = torch.randperm(len(rows), generator=generator(seed, "head rows"))
    parts = [order[rows.y[order] == k][:per_class] for k in range(rows.classes)]
    if min(map(len, parts)) == 0:
        raise NotApplicable("a targeted poison needs training rows of both its classes")
    return rows[torch.cat(parts)]


def _eight_bit(rows: Samples) -> Samples:
    return Samples((rows.x * 255).round() / 255, rows.y, rows.classes, rows.names)


def _aims(test: Samples, clean: Classifier, count: int, seed: int) -> Aims:
    """Draw test rows that the clean victim gets right, and for each another class to be given."""
    right = _right(clean, test).nonzero().flatten()
    if not len(right):
        raise NotApplicable("the clean victim gets no test row right")
    rng = generator(seed, "aims")
    rows = right[torch.randperm(len(right), generator=rng)[:count]]
    present = test.y.unique()
    others = [present[present != y] for y in test.y[rows]]
    if min(map(len, others)) == 0:
        raise NotApplicable("a targeted poison needs test rows of two classes or more")
    wish = [other[int(torch.randint(len(other), (), generator=rng))] for other in others]
    return Aims(test.x[rows], test.y[rows], torch.stack(wish))


def _hits(victims: Sequence[Classifier], aims: Aims) -> Tensor:
    """Tell which aims (T,) their victims give to the class wished for."""
    said = [model.predict(aims.x[i : i + 1]).argmax(1) for i, model in enumerate(victims)]
    return torch.cat(said) == aims.wish


def _false_success(stage: Stage, aims: Aims) -> Estimate:
    """Count the aims that a clean victim of another start gives to the class wished for anyway."""
    other = stage.train([stage.clean] * 2, "other clean")[1]
    return share(int((other.predict(aims.x).argmax(1) == aims.wish).sum()), len(aims))


def _right(model: Classifier, test: Samples) -> Tensor:
    return (model.predict(test.x).argmax(1) == test.y).cpu()


def _accuracy(model: Classifier, test: Samples) -> float:
    return float(_right(model, test).double().mean())


def _few_aims(aims: Aims) -> tuple[Flag, ...]:
    if len(aims) >= FEW_AIMS:
        return ()
    return (Flag(code="few-victims", detail=f"{len(aims)} aims; {FEW_AIMS} or more say something"),)


def _sizes(poisons: Sequence[Poison], clean: Samples, budget: Tampering) -> dict[str, object]:
    """State how much was changed, as measured on the pictures that victims were trained on."""
    changes = torch.cat([p.x - clean.x[p.rows] for p in poisons]).flatten(1).double()
    if not changes.numel():
        return {"poisons_per_aim": 0}
    error = float(changes.square().mean())
    return {
        "aims": len(poisons),
        "poisons_per_aim": f"{budget.poisons} ({100 * budget.poisons / len(clean):.2g}% of the rows)",
        "largest_change": f"{float(changes.abs().max()) * 255:.0f}/255",
        "psnr_db": round(float(-10 * torch.tensor(error).log10()), 1) if error else "unchanged",
    }


def _evidence(poisons: Sequence[Poison], clean: Samples, aims: Aims, hit: Tensor) -> dict[str, Tensor]:
    """Keep all poisons, and as pictures the first of each aim, those that worked first."""
    most = max(len(p.rows) for p in poisons)
    show = [i for i in (~hit).long().argsort(dim=0, stable=True).tolist() if len(poisons[i].rows)][:GALLERY]
    first = [poisons[i] for i in show]
    blank = clean.x[:0]
    tensors = {
        "aims": aims.x, "y": aims.y, "wish": aims.wish, "hit": hit,
        "gallery_x": torch.cat([clean.x[p.rows[:1]] for p in first] or [blank]),
        "gallery_adv": torch.cat([p.x[:1] for p in first] or [blank]),
        "gallery_y": torch.cat([clean.y[p.rows[:1]] for p in first] or [clean.y[:0]]),
        "gallery_pred": torch.cat([p.y[:1] for p in first] or [clean.y[:0]]),
    }  # fmt: skip
    if all(len(p.rows) == most for p in poisons):
        tensors["poison_rows"] = torch.stack([p.rows for p in poisons])
        tensors["poison_x"] = torch.stack([p.x for p in poisons])
    return tensors
