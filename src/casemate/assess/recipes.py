"""How a target is trained, as the user says it or as it is usual."""

from dataclasses import replace
from typing import Any

import torch

from casemate.assess.datasets import LoadedData
from casemate.assess.digest import digest_architecture
from casemate.assess.imported import parse_function
from casemate.assess.models import Loaded
from casemate.assess.result import Flag
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.ops.rng import seeded

SETTINGS = {"epochs": int, "batch": int, "lr": float, "weight_decay": float}


def load_recipe(spec: str | None, model: Loaded, data: LoadedData) -> tuple[Recipe | None, list[Flag]]:
    """Find the recipe by which models like the target are trained.

    Args:
        spec: `file.py:function` that returns a recipe, settings such as "epochs=20,lr=0.001" for
            the usual one, or None for the target's own or else the usual one.
        model: the target.
        data: its data; without training data there is nothing to train.

    Returns:
        The recipe, or None where nothing can be trained, and what is doubtful about it.

    Raises:
        UsageError: the recipe cannot be had.
    """
    if spec is not None and ":" in spec:
        return named_by_content(_own(spec)), []
    settings = {} if spec is None else parse_settings(spec)
    known = model.recipe
    if known is None and model.make is not None:
        known = named_by_content(Recipe(model.make, model.name))
    if known is None or data.train is None:
        if spec is not None:
            missing = "the model cannot be trained anew" if known is None else "there is no training data"
            raise UsageError(f"--recipe was given, but {missing}.")
        return None, []
    recipe = replace(known, **settings)
    if spec is not None or model.recipe is not None:
        return recipe, []
    return recipe, [
        Flag(code="surrogate-recipe", detail=f"{recipe.epochs} epochs of Adam, batches of {recipe.batch}")
    ]


def named_by_content(recipe: Recipe) -> Recipe:
    """Put a digest of the architecture into the name, since results are kept by it."""
    with seeded(0, torch.device("cpu")):
        net = recipe.make()
    return replace(recipe, name=f"{recipe.name} {digest_architecture(net)[:16]}")


def _own(spec: str) -> Recipe:
    function = parse_function(spec)
    if function is None:
        raise UsageError(f"--recipe must be file.py:function or settings such as epochs=20. Got '{spec}'.")
    recipe = function()
    if not isinstance(recipe, Recipe):
        raise UsageError(f"{spec} must return a casemate.Recipe. Got a {type(recipe).__name__}.")
    return recipe


def parse_settings(text: str) -> dict[str, Any]:
    """Read settings of a recipe, "epochs=20,lr=0.001"."""
    found: dict[str, Any] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in SETTINGS:
            raise UsageError(f"--recipe knows the settings {', '.join(SETTINGS)}. Got '{item.strip()}'.")
        try:
            found[name] = SETTINGS[name](value)
        except ValueError:
            kind = "a whole number" if SETTINGS[name] is int else "a number"
            raise UsageError(f"The '{name}' of --recipe must be {kind}. Got '{value}'.") from None
        if not (found[name] >= 0 if name == "weight_decay" else found[name] > 0):
            raise UsageError(f"The '{name}' of --recipe must be above 0. Got {value}.")
    return found
