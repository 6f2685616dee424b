"""The contests of poisons and screenings: who meets whom, on which rows and nets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import poison_ours as ours
import poison_peers as art
import poison_witches as witches
import torch
from poison_turns import Entrant, Judge, Round, Task, backdoor, hold, screening, targeted

from casemate.assess.families.targeted import fit_heads
from casemate.attacks.backdoor.clean_label import Corners
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import recipe
from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.features import Halves, halves
from casemate.core.registry import find
from casemate.core.triggers import Patch
from casemate.core.workshop import Aims
from casemate.ops.rng import generator
from casemate.scenes.targeted import PULLOVER_OR_COAT, pair_recipe, pullovers_and_shirts


@dataclass(frozen=True)
class Sizes:
    """How much is poisoned, for how long, and how often."""

    aims: int = 10  # of each turn
    steps: int = 60
    matching: int = 80
    sleeper: int = 100
    retrainings: int = 2
    sources: int = 500
    pgd: int = 30
    rows: int = 5000  # to train on
    turns: int = 3


TINY = Sizes(aims=2, steps=4, matching=5, sleeper=4, retrainings=1, sources=50, pgd=3, rows=1000, turns=1)


def features(sizes: Sizes, method: str) -> list[Round]:
    """Poisons that work on features: heads for pullovers and coats on an extractor of the other classes."""
    eps, params, peer = {
        "bullseye": (0.1, {"surrogates": 1, "dropout": 0.0}, partial(art.bullseye, lr=0.01)),
        "feature_collision": (0.15, {"step": 0.01}, art.feature_collision),
    }[method]
    train, test = _few(fashion_mini()[0], sizes.rows), fashion_mini()[1]
    pair = torch.tensor(PULLOVER_OR_COAT)
    extractor = _extractor(sizes.rows)
    train, test = (Samples(x.x, (x.y == pair[1]).long(), 2) for x in map(_of(pair), (train, test)))
    tasks = []
    for turn in range(sizes.turns):
        order = torch.randperm(len(train), generator=generator(turn, "rows"))
        clean = train[torch.cat([order[train.y[order] == k][:50] for k in range(2)])]
        model = fit_heads(extractor, [clean])[0]
        task = Task(recipe(), clean, test, model, 10, eps, sizes.steps, extractor=extractor, seed=turn)
        tasks.append(replace(task, aims=_aims(task, sizes.aims)))
    entrants = [Entrant("casemate", ours.targeted(method, **params)), Entrant("ART", peer), _noise()]
    title = f"{method}, {sizes.aims} aims, 10 of 100 rows within {eps}, {sizes.steps} steps"
    return [_round(title, tasks, entrants, targeted, sizes.aims)]


def gradient_matching(sizes: Sizes) -> list[Round]:
    """Gradient matching: nets that learn pullovers and shirts from nothing, one for each aim."""
    tasks = [replace(t, aims=_aims(t, sizes.aims)) for t in _pair_tasks(sizes, 38 / 255, sizes.matching)]
    entrants = [
        Entrant("casemate", ours.targeted("gradient_matching", choice="hardest", trained=0.15)),
        Entrant("casemate, as in the paper", ours.targeted("gradient_matching"), ours=True),
        Entrant("ART", art.gradient_matching),
        Entrant("its authors", witches.gradient_matching), _noise(),
    ]  # fmt: skip
    title = f"gradient matching, {sizes.aims} aims, 20 of 1,000 rows within 38/255, {sizes.matching} steps"
    return [_round(title, tasks, entrants, targeted, sizes.aims)]


def sleeper_agent(sizes: Sizes) -> list[Round]:
    """Triggers that no training row shows; hidden trigger has no counterpart but this."""
    tasks = [replace(task, mark=Patch(7, 0)) for task in _pair_tasks(sizes, 16 / 255, sizes.sleeper)]
    given = {"patch": 7, "sources": sizes.sources, "retrainings": sizes.retrainings}
    entrants = [
        Entrant("casemate", ours.backdoor("sleeper_agent", **given)),
        Entrant("ART", partial(art.sleeper_agent, **given)),
        # its gradients stay those of the first net, so that its poisons are the same without
        Entrant("ART, no retraining", partial(art.sleeper_agent, **given | {"retrainings": 0})),
        Entrant("ART, hidden trigger", partial(art.hidden_trigger, lr=0.01)),
        _noise(),
    ]
    title = f"sleeper agent, 20 of 1,000 rows within 16/255, {sizes.sleeper} steps, {sizes.retrainings} retrainings"
    return [_round(title, tasks, entrants, backdoor)]


def clean_label(sizes: Sizes) -> list[Round]:
    """Clean-label backdoor: 40% of one class of clothes."""
    train, test = fashion_mini()
    train = _few(train, sizes.rows)
    model = recipe()(train, rng=generator(10, "surrogate"))
    task = Task(
        recipe(),
        train,
        test,
        model,
        len(train) // 25,
        32 / 255,
        sizes.pgd,
        mark=Corners(3, 1.0),
        hidden=False,
    )
    tasks = [replace(task, seed=turn) for turn in range(sizes.turns)]
    entrants = [
        Entrant("casemate", ours.backdoor("clean_label", count=1)),
        Entrant("ART", art.clean_label),
        Entrant("marks alone", ours.marks, baseline=True),
    ]
    title = f"clean label, {task.count} of {len(train)} rows within 32/255, {sizes.pgd} steps"
    return [_round(title, tasks, entrants, backdoor)]


def screenings(sizes: Sizes) -> list[Round]:
    """Screenings of clothes of which 3% have a patch and the label of class 1."""
    tasks = [_patched(sizes, turn) for turn in range(sizes.turns)]
    rows = f"{len(tasks[0].clean)} rows, {tasks[0].count} planted"
    spectral = [
        Entrant("casemate", ours.screening("spectral")), Entrant("ART", partial(art.spectral, expected=0.25)),
    ]  # fmt: skip
    clusters = [Entrant("casemate", ours.screening("activation_clustering"))] + [
        Entrant(f"ART, {by}", partial(art.activation_defence, analysis=by))
        for by in ("smaller", "relative-size", "silhouette-scores")
    ]
    words = {"spectral signatures": spectral, "activation clustering": clusters}
    return [_round(f"{name}, {rows}", tasks, who, screening) for name, who in words.items()]


@cache
def _extractor(count: int) -> Halves:
    train, pair = _few(fashion_mini()[0], count), torch.tensor(PULLOVER_OR_COAT)
    return halves(recipe()(train[~torch.isin(train.y, pair)], rng=generator(10, "extractor")))


def _patched(sizes: Sizes, turn: int) -> Task:
    train = _few(fashion_mini()[0], sizes.rows)
    entry = find("backdoor.badnets")
    settings = entry.validate({"target": 1})
    poison: Poison = entry.run(train, PoisonBudget(0.03), rng=generator(turn, "planted"), **settings)
    dirty = poison.apply(train)
    planted = torch.zeros(len(dirty), dtype=torch.bool)
    planted[poison.rows] = True
    model = recipe()(dirty, rng=generator(turn, "victim"))
    return Task(recipe(), dirty, dirty, model, len(poison.rows), 1.0, 1, planted=planted, seed=turn)


def _pair_tasks(sizes: Sizes, eps: float, steps: int) -> list[Task]:
    train, test = pullovers_and_shirts()
    how = pair_recipe()
    model = how(train, rng=generator(10, "surrogate"))
    return [Task(how, train, test, model, 20, eps, steps, seed=turn) for turn in range(sizes.turns)]


def _aims(task: Task, count: int) -> Aims:
    """Draw test rows that the clean model gets right, to be given the other of two classes."""
    right = (task.model.predict(task.test.x).argmax(1) == task.test.y).nonzero().flatten()
    rows = right[torch.randperm(len(right), generator=generator(task.seed, "aims"))[:count]]
    return Aims(task.test.x[rows], task.test.y[rows], 1 - task.test.y[rows])


def _of(classes: torch.Tensor) -> Callable[[Samples], Samples]:
    return lambda rows: rows[torch.isin(rows.y, classes)]


def _few(rows: Samples, count: int) -> Samples:
    """Every k-th row: they come class by class."""
    return rows[torch.arange(count) * (len(rows) // count)]


def _noise() -> Entrant:
    return Entrant("noise of full size", ours.noise, baseline=True)


def _round(title: str, tasks: list[Task], who: Sequence[Entrant], judge: Judge, per: int = 1) -> Round:
    screens = judge is screening
    success, harm = ("found %", "clean rows dropped %") if screens else ("success %", "error on clean %")
    return Round(title, per, success, harm, hold(tasks, who, judge), screens)


CONTESTS: dict[str, Callable[[Sizes], list[Round]]] = {
    "screenings": screenings,
    "bullseye": partial(features, method="bullseye"),
    "gradient_matching": gradient_matching,
    "sleeper_agent": sleeper_agent,
    "clean_label": clean_label,
    "feature_collision": partial(features, method="feature_collision"),
}
