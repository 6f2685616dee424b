"""Run the scenes of defences that stand in front of a finished model."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from casemate.assess.families.evasion import Attempt, ask, attempt, judge, subset
from casemate.core.adaptive import Hooks
from casemate.core.data import Samples
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier, Ledger, Prepared
from casemate.core.threat import Goal, Lp, Misclassify
from casemate.core.tick import Tick
from casemate.core.workers import Workers
from casemate.defences.serving.smoothing import certify, smoothing
from casemate.defences.training import dpa
from casemate.ops.rng import generator, seed_of, seeded
from casemate.ops.rng import rows as row_streams
from casemate.ops.stats import Estimate, share
from casemate.scenes.scene import CertifiedScene, DividedScene, ExhibitScene


@dataclass(frozen=True)
class Exhibit:
    """Clean accuracy and what it cost, and shares of the rows that are right and get fooled."""

    clean: Estimate
    lost: float
    noise: Estimate
    naive: Estimate
    adapted: Estimate


def exhibit(scene: ExhibitScene, seed: int, pool: Workers, tick: Tick) -> Exhibit:
    """Defend a model and attack it with noise, naively, and knowing the defence."""
    train, test = scene.data()
    with seeded(seed_of(seed, "exhibit"), torch.device("cpu")):
        plain, model = _pair(scene, train, seed, pool, tick)
        samples, numbers = subset(test, scene.rows, seed)
        if scene.finished is not None:
            others = torch.ones(len(test), dtype=torch.bool)
            others[numbers] = False
            model = scene.finished(model, test[others])
        answers = scene.hooks.answers
        seen = ask(model, samples.x, Misclassify(samples.y), answers, seed)
        right = seen.label == samples.y
        x, y, numbers = samples.x[right], samples.y[right], numbers[right]
        before = float((plain.predict(samples.x).argmax(1) == samples.y).double().mean())
        run = partial(_attack, x=x, y=y, budget=scene.budget, numbers=numbers, seed=seed, tick=tick)
        once = Hooks(answers=answers)
        noise = run("evasion.random_noise", {}, model, scene.goal, once)
        crafted = run("evasion.pgd", scene.naive_params, model, scene.naive_goal, once)
        naive = judge(
            model, x, crafted.x_adv, scene.goal(y), scene.budget, Ledger.empty(0), answers=answers, seed=seed
        )
        adapted = run(scene.attack, scene.attack_params, model, scene.goal, scene.hooks)
    fooled = [share(int(found.fooled.sum()), len(x)) for found in (noise, naive, adapted)]
    clean = share(int(right.sum()), len(samples))
    return Exhibit(clean, before - clean.value, fooled[0], fooled[1], fooled[2])


def _pair(
    scene: ExhibitScene, train: Samples, seed: int, pool: Workers, tick: Tick
) -> tuple[Classifier, Classifier]:
    """Give the model without and with the defence."""
    plain, defence = scene.target(), find(scene.defence)
    params = defence.validate(scene.params)
    if scene.recipe is None:
        return plain, defence.run(plain, rng=generator(seed, "defence"), **params)
    jobs = [(defence.run(scene.recipe(), **params), train, seed_of(seed, "victim"))]
    return plain, pool.train_many(jobs, tick=tick)[0]


def _attack(
    name: str, params: Any, model: Classifier, goal: Any, hooks: Hooks, *, x: Tensor, y: Tensor,
    budget: Lp, numbers: Tensor, seed: int, tick: Tick,
) -> Attempt:  # fmt: skip
    entry = find(name)
    wish: Goal = goal(y)
    return attempt(
        entry, Prepared(model), x, wish, budget, params=entry.validate(params), numbers=numbers, seed=seed,
        hooks=hooks, tick=tick,
    )  # fmt: skip


@dataclass(frozen=True)
class Certified:
    """Accuracy of the smoothed model, rows that are certain with and without noise in training.

    `broken` counts certain rows to which an attack within the radius gave another class.
    """

    clean: Estimate
    certified: Estimate
    without: Estimate
    broken: int


def certified(scene: CertifiedScene, seed: int, pool: Workers, tick: Tick) -> Certified:
    """Train with and without noise, certify both, and attack certain rows of the first."""
    train, test = scene.data()
    noisy = find("training.gaussian").run(scene.recipe(), sigma=scene.sigma)
    jobs = [(recipe, train, seed_of(seed, "victim")) for recipe in (noisy, scene.recipe())]
    model, plain = pool.train_many(jobs, tick=tick)
    samples, numbers = subset(test, scene.rows, seed)
    settings: dict[str, Any] = {
        "sigma": scene.sigma, "guesses": scene.guesses, "draws": scene.draws, "alpha": scene.alpha,
    }  # fmt: skip
    found, without = (
        certify(each, samples.x, **settings, rng=row_streams(seed, numbers, "certify"), tick=tick)
        for each in (model, plain)
    )
    certain = found.holds(samples.y, scene.radius)
    some = certain.nonzero().flatten()[: scene.attacked]
    served = smoothing(model, sigma=scene.sigma, draws=32, rng=generator(seed, "smoothing"))
    pgd = find("evasion.pgd")
    broken = attempt(
        pgd, Prepared(served), samples.x[some], Misclassify(samples.y[some]), Lp(norm="l2", eps=scene.radius),
        params=pgd.validate({"steps": 20, "loss": "margin"}), numbers=numbers[some], seed=seed,
        hooks=Hooks(answers=5), tick=tick,
    ).fooled  # fmt: skip
    return Certified(
        share(int((found.label == samples.y).sum()), len(samples)),
        share(int(certain.sum()), len(samples)),
        share(int(without.holds(samples.y, scene.radius).sum()), len(samples)),
        int(broken.sum()),
    )


@dataclass(frozen=True)
class Divided:
    """Accuracy of nets that vote and what it cost; rows that are right for certain, by number of changes.

    `broken` counts certain rows whose answer changed training rows have changed.
    """

    clean: Estimate
    lost: float
    certified: Estimate
    without: Estimate
    curve: tuple[tuple[int, float], ...]
    broken: int


def divided(scene: DividedScene, entry: Entry, seed: int, pool: Workers, tick: Tick) -> Divided:
    """Train nets that vote and one net, certify the first, and change training rows against them."""
    train, test = scene.data()
    recipe = entry.run(scene.recipe(), **entry.validate(scene.params))
    jobs = [(each, train, seed_of(seed, "victim")) for each in (recipe, scene.recipe())]
    model, plain = pool.train_many(jobs, tick=tick)
    samples, _ = subset(test, scene.rows, seed)
    found = dpa.certify(model, samples.x)
    certain = found.holds(samples.y, scene.changes)
    n, broken = len(samples), 0
    if bool(certain.any()):
        dirty = _relabelled(model, train, samples[certain], found.radius[certain], scene.changes)
        victim = pool.train_many([(recipe, dirty, seed_of(seed, "victim"))], tick=tick)[0]
        broken = int((victim.predict(samples.x[certain]).argmax(1) != samples.y[certain]).sum())
    right, one = (m.predict(samples.x).argmax(1) == samples.y for m in (model, plain))
    clean = share(int(right.sum()), n)
    steps = sorted({0, 1, 2, scene.changes, 2 * scene.changes})
    curve = tuple((r, float(found.holds(samples.y, r).double().mean())) for r in steps)
    lost = float(one.double().mean()) - clean.value
    return Divided(clean, lost, share(int(certain.sum()), n), share(0, n), curve, broken)


def _relabelled(model: Classifier, train: Samples, rows: Samples, radius: Tensor, changes: int) -> Samples:
    """Relabel training rows against the row that is least certain: its nearest of its class, one in each part."""
    assert isinstance(model.net, dpa.Council)
    weak = int(radius.argmin())
    aim, y = rows.x[weak], rows.y[weak]
    votes = model.predict(aim[None])[0]
    votes[y] = -1
    dirty = train.y.clone()
    parts = dpa.divide(train, len(model.net.members))
    voting = [i for i, net in enumerate(model.net.members) if int(net(aim[None]).argmax()) == int(y)]
    for i in voting[:changes]:
        own = parts[i][train.y[parts[i]] == y]
        if len(own):
            near = (train.x[own] - aim).flatten(1).norm(dim=1).argmin()
            dirty[own[near]] = votes.argmax()
    return Samples(train.x, dirty, train.classes, train.names)
