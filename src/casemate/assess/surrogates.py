"""The adversary's own models, on which examples are made for a target that is never asked."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.builtin.nets import small_mlp, small_patches, small_resnet, small_strided, small_vgg
from casemate.core.data import Samples
from casemate.core.ensemble import mean_logits
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Prepared
from casemate.core.tick import Tick
from casemate.ops.rng import seed_of

EPOCHS = 8
NETS: dict[str, Callable[..., nn.Module]] = {
    "mlp": small_mlp,
    "patches": small_patches,
    "resnet": small_resnet,
    "strided": small_strided,
    "vgg": small_vgg,
}


def recipe(name: str, data: Samples) -> Recipe:
    """Give the recipe of one of the adversary's nets for such data."""
    if len(data.shape) != 3 and name != "mlp":
        raise NotApplicable(f"the surrogate '{name}' takes pictures, not inputs of shape {data.shape}")
    make = partial(NETS[name], data.shape, data.classes)
    shape = "x".join(map(str, data.shape))
    return Recipe(make, f"{name} {shape} {data.classes}", epochs=EPOCHS, lr=3e-3)


def known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check the names of surrogates."""
    wrong = [name for name in names if name not in NETS]
    if wrong:
        raise UsageError(f"The 'surrogates' of a threat must be of {', '.join(NETS)}. Got '{wrong[0]}'.")
    return names


def naming(recipe: Recipe) -> str:
    """Name a surrogate in a case, so that another recipe is another case."""
    return f"{recipe.name.split()[0]}:{recipe.digest()[:12]}"


def crafted_on(names: tuple[str, ...], bench: Bench) -> tuple[str, ...]:
    """Name the surrogates of a case; without training data their recipes are not known, and the names do."""
    if bench.train is None or (len(bench.train.shape) != 3 and set(names) != {"mlp"}):
        return names
    return tuple(naming(recipe(name, bench.train)) for name in names)


def surrogate(case: Case, bench: Bench, tick: Tick) -> Prepared:
    """Give the mean logits of the case's surrogates: the bench's, or ones trained once for a run.

    The adversary trains on the target's own training data, which is the strongest that it could
    collect. Raises NotApplicable where there are none.
    """
    if bench.surrogate is not None:
        return bench.surrogate
    if bench.train is None:
        raise NotApplicable("surrogates are trained on the training data, and none were given")
    names = [name.partition(":")[0] for name in case.crafted_on]
    recipes = [recipe(name, bench.train) for name in names]
    key = f"surrogate {case.crafted_on} {case.data} {case.seed}"
    if key not in bench.cache:
        jobs = [
            (each, bench.train, seed_of(case.seed, "surrogate", name))
            for name, each in zip(names, recipes, strict=True)
        ]
        trained = bench.train_many(jobs, tick=tick)
        device = bench.target.device
        bench.cache[key] = Prepared(mean_logits([replace(model, device=device) for model in trained]))
    found: Prepared = bench.cache[key]
    return found
