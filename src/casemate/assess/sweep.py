"""Run the scenes of scannings: models with and without a backdoor."""

from dataclasses import dataclass

import torch

from casemate.core.data import PoisonBudget, Samples
from casemate.core.registry import Entry, find
from casemate.core.tick import Tick
from casemate.core.workers import Job, Workers
from casemate.ops.rng import generator, seed_of
from casemate.ops.stats import Estimate, exact_share, mean_share
from casemate.scenes.scene import ScanningScene


@dataclass(frozen=True)
class Sweep:
    """Mean clean accuracy of the victims, and the shares of clean models and of victims that are called right or wrong.

    `false_alarms` counts clean models called backdoored, `found` victims called so for their target.
    """

    accuracy: Estimate
    false_alarms: Estimate
    found: Estimate


def sweep(scene: ScanningScene, entry: Entry, seed: int, pool: Workers, tick: Tick) -> Sweep:
    """Train the models side by side and scan each with test rows."""
    train, test = scene.data()
    order = torch.randperm(len(test), generator=generator(seed, "clean rows"))
    rows, rest = test[order[: scene.rows]], test[order[scene.rows :]]
    jobs, targets = _jobs(scene, train, seed)
    models = pool.train_many(jobs, tick=tick)
    suspects = []
    for i, model in enumerate(models):
        traces = entry.run(
            model, rows, rng=generator(seed, "scanning", i), tick=tick, **entry.validate(scene.params)
        )
        suspects.append(traces.suspect)
    right = [float((m.predict(rest.x).argmax(1) == rest.y).double().mean()) for m in models[scene.clean :]]
    alarms = sum(suspect is not None for suspect in suspects[: scene.clean])
    found = sum(s == t for s, t in zip(suspects[scene.clean :], targets, strict=True))
    return Sweep(mean_share(right), exact_share(alarms, scene.clean), exact_share(found, scene.victims))


def _jobs(scene: ScanningScene, train: Samples, seed: int) -> tuple[list[Job], list[int]]:
    """List the trainings, the clean ones first, and the targets of the others."""
    recipe, attack = scene.recipe(), find(scene.attack)
    jobs: list[Job] = [(recipe, train, seed_of(seed, "clean", i)) for i in range(scene.clean)]
    targets = [(seed + i) % train.classes for i in range(scene.victims)]
    for i, target in enumerate(targets):
        params = attack.validate({**scene.attack_params, "target": target})
        poison = attack.run(train, PoisonBudget(scene.rate), rng=generator(seed, "poison", i), **params)
        jobs.append((recipe, poison.apply(train), seed_of(seed, "backdoored", i)))
    return jobs, targets
