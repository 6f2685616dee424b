"""Train a target again with a defence, and choose between defences by what they achieve."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from casemate.assess import checks
from casemate.assess.assessment import adapted
from casemate.assess.bench import Bench
from casemate.assess.choosing import Choice, effect
from casemate.assess.digest import digest, digest_net, digest_tensors
from casemate.assess.families.evasion import ask, attempt
from casemate.assess.progress import Progress
from casemate.assess.result import Flag
from casemate.assess.store import write_whole
from casemate.core.compiled import compile_forward
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier, Prepared
from casemate.core.threat import Lp, Misclassify
from casemate.ops.rng import seed_of, seeded
from casemate.ops.stats import Estimate, share

LONGER = 2  # training on attacked inputs gets this many times the epochs


@dataclass(frozen=True)
class Trained:
    """A target trained on `rows` with a defence; `robust` is its accuracy under attack on others."""

    entry: Entry
    recipe: Recipe
    model: Classifier
    rows: Samples
    robust: Estimate
    seconds: float


def retrain(
    bench: Bench, candidates: Sequence[Entry], choice: Choice, budget: Lp, seed: int, progress: Progress
) -> tuple[Trained, dict[str, Any]]:
    """Train the target with each defence side by side and keep the one that stands best.

    They are compared under a short attack on rows that no training saw. Finished weights lie in the
    store's folder, and the same command finds them there.

    Args:
        bench: the target, with training data and recipe.
        candidates: training defences.
        choice: the rows that compare them, and those to train on.
        budget: the ball that the model should withstand.
        seed: base seed.
        progress: told of the training's steps.

    Returns:
        The best, and what to report of all of them.

    Raises:
        UsageError: there are no training data or no recipe.
    """
    if choice.rest is None or bench.recipe is None:
        raise UsageError(
            "Training a defence needs training data and a recipe; give --data with both parts and --recipe."
        )
    rest = choice.rest
    longer = replace(bench.recipe, epochs=LONGER * bench.recipe.epochs)
    recipes = {
        entry.id: entry.run(longer, **entry.validate(_for_the_ball(entry, budget))) for entry in candidates
    }
    models, seconds = _weights(bench, recipes, rest, seed, progress)
    found = [
        Trained(
            entry, recipes[entry.id], models[entry.id], rest,
            standing(bench, models[entry.id], choice.rows, budget, seed), seconds[entry.id],
        )
        for entry in candidates
    ]  # fmt: skip
    best = max(found, key=lambda t: t.robust.value)
    report = {
        "defence": best.entry.id,
        "weights": f"{best.entry.id}.safetensors",
        "epochs": best.recipe.epochs,
        "training_seconds": best.seconds,
        "candidates": {t.entry.id: effect(t.robust) for t in found},
    }
    return best, report


def _for_the_ball(entry: Entry, budget: Lp) -> dict[str, Any]:
    """Settings of a defence that is trained for a ball; of another one, none."""
    said = {"eps": budget.eps, "norm": budget.norm}
    return {name: value for name, value in said.items() if name in entry.params.model_fields}


def trained_for_a_ball(entry: Entry) -> bool:
    """Tell whether a defence is trained to withstand a ball; the others are tried only when named."""
    return {"eps", "norm"} <= set(entry.params.model_fields)


def _weights(
    bench: Bench, recipes: Mapping[str, Recipe], rest: Samples, seed: int, progress: Progress
) -> tuple[dict[str, Classifier], dict[str, float]]:
    """Read the weights that are there and train the others side by side; with seconds by defence."""
    folder = bench.store.folder
    wanted = {
        name: digest(recipe.digest(), bench.digests["data"], str(len(rest)), str(seed))
        for name, recipe in recipes.items()
    }
    models: dict[str, Classifier] = {}
    seconds: dict[str, float] = {}
    for name, recipe in recipes.items():
        known = _read(folder / f"{name}.safetensors", wanted[name], recipe, bench)
        if known is not None:
            models[name], seconds[name] = known
    missing = [name for name in recipes if name not in models]
    title = f"training with {', '.join(recipes)}"
    progress.plan([title])
    progress.start(title, title)
    begun = time.perf_counter()

    def keep(job: int, model: Classifier) -> None:
        name = missing[job]
        models[name], seconds[name] = model, time.perf_counter() - begun
        card = {"made": wanted[name], "seconds": str(seconds[name])}
        # whole at once: a killed run finds what it had trained
        weights = {k: v.contiguous() for k, v in model.net.state_dict().items()}
        write_whole(folder / f"{name}.safetensors", save(weights, card))

    jobs = [(recipes[name], rest, seed_of(seed, "harden")) for name in missing]
    bench.train_many(jobs, tick=progress.step, done=keep)
    progress.finish(title, None)
    return models, seconds


def _read(path: Path, made: str, recipe: Recipe, bench: Bench) -> tuple[Classifier, float] | None:
    """Read weights that this very recipe, data and seed made; None where there are none."""
    try:
        with safe_open(path, "pt") as file:
            card = file.metadata() or {}
        if card.get("made") != made:
            return None
        with seeded(0, torch.device("cpu")):
            net = recipe.make()
        net.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError):
        return None
    net.to(bench.target.device).eval()
    model = Classifier(net, bench.target.classes, bench.target.shape, device=bench.target.device)
    return model, float(card["seconds"])


def standing(bench: Bench, model: Classifier, rows: Samples, budget: Lp, seed: int) -> Estimate:
    """Estimate the robust share of a candidate, or read it where a stopped run had measured it."""
    known = {"x": rows.x, "y": rows.y}
    parts = (bench.digests["target"], digest_net(model.net), digest_tensors(known), repr(budget), str(seed))
    # another attack in `robust_share` needs another name here
    key = digest("robust share, margin, 20 steps", str(find("evasion.pgd").version), *parts)
    return bench.store.estimate(key, lambda: robust_share(model, rows, budget, seed))


def robust_share(model: Classifier, rows: Samples, budget: Lp, seed: int) -> Estimate:
    """Estimate the share of rows that a model still gets right under 20 steps of margin PGD that knows the defence."""
    pgd = find("evasion.pgd")
    if budget.norm not in pgd.norms:
        raise NotApplicable(f"no defence in training is chosen for {budget.norm} budgets")
    prepared = Prepared(model)
    with seeded(seed_of(seed, "robust share"), model.device):
        randomised = any(f.code == "randomised" for f in checks.inspect_outputs(model, rows.x[: checks.ROWS]))
        hooks, _ = checks.adaptation(prepared, rows.x, randomised=randomised)
        seen = ask(model, rows.x, Misclassify(rows.y), hooks.answers, seed)
        right = (seen.label == rows.y).nonzero().flatten()
        found = attempt(
            pgd, prepared, rows.x[right], Misclassify(rows.y[right]), budget,
            params=pgd.validate({"steps": 20, "loss": "margin"}), numbers=torch.arange(len(right)), seed=seed,
            hooks=hooks,
        )  # fmt: skip
    return share(len(right) - int(found.fooled.sum()), len(rows))


def replaced(bench: Bench, trained: Trained, seed: int) -> tuple[Bench, list[Flag]]:
    """Put the trained model in the target's place and inspect it: the bench and what is doubtful."""
    # the rows kept aside are no training rows of the new model, which its victims' key must tell
    digests = {
        **bench.digests,
        "target": digest_net(trained.model.net),
        "recipe": digest(bench.digests["recipe"], str(len(trained.rows)), str(seed)),
    }
    return installed(replace(bench, train=trained.rows, digests=digests), trained.model, seed)


def installed(bench: Bench, model: Classifier, seed: int) -> tuple[Bench, list[Flag]]:
    """Put a model in the target's place, with the hooks that it calls for: bench and doubts."""
    prepared = Prepared(model)
    sample = bench.test[: checks.ROWS * 2]
    with seeded(seed_of(seed, "outputs"), model.device):
        doubts = checks.inspect_outputs(model, sample.x)
    if not any(f.code == "randomised" for f in doubts):
        prepared.fast = compile_forward(prepared, sample.x)
    return adapted(replace(bench, target=model, prepared=prepared), doubts, seed)
