"""Trained generators as safetensors: weights, and how they were made; nothing in a file is run."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from casemate.generators.models import ConditionalModel, LatentModel, Model, conditional_model, latent_model

# shipped generators lie beside the data that they were trained on
SHELF = "casemate.builtin"


def save(model: Model, path: Path | str, made: Mapping[str, str]) -> None:
    """Write a generator's weights with its form, a digest of the weights, and `made`: recipe, seed, data."""
    weights = {
        f"{part}.{name}": tensor.contiguous()
        for part, net in _parts(model).items()
        for name, tensor in net.state_dict().items()
    }
    form = {"shape": model.shape, "latent": model.latent, "width": model.width}
    if isinstance(model, ConditionalModel):
        form["classes"] = model.classes
    save_file(weights, path, metadata={**made, "form": json.dumps(form), "weights": _digest(weights)})


def load(name: str) -> Model:
    """Load a generator: a shipped one by its name, or a file by a path that ends in .safetensors.

    Raises ValueError if there is none, or the file is not what `save` wrote.
    """
    if name.endswith(".safetensors"):
        return _read(Path(name))
    shipped = resources.files(SHELF) / f"{name}.safetensors"
    if "/" in name or not shipped.is_file():
        known = ", ".join(names())
        raise ValueError(f"No generator is called '{name}'. Shipped: {known}; or give a file.safetensors.")
    return _shipped(name)


def names() -> list[str]:
    """List the generators that are shipped."""
    files = (item.name for item in resources.files(SHELF).iterdir())
    return sorted(n.removesuffix(".safetensors") for n in files if n.startswith("generator_"))


def card(path: Path | str) -> dict[str, str]:
    """Read how a generator was made."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


@cache
def _shipped(name: str) -> Model:
    with resources.as_file(resources.files(SHELF) / f"{name}.safetensors") as path:
        return _read(path)


def _read(path: Path) -> Model:
    try:
        with safe_open(path, "pt") as file:
            made = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        form = json.loads(made["form"])
        shape, latent, width = tuple(map(int, form["shape"])), int(form["latent"]), int(form["width"])
        with torch.random.fork_rng(devices=[]):
            model: Model = (
                conditional_model(latent, int(form["classes"]), shape, width)
                if "classes" in form
                else latent_model(latent, shape, width)
            )
        for part, net in _parts(model).items():
            net.load_state_dict(
                {k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(part)}
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The generator {path.name} cannot be read: {error}") from None
    if _digest(weights) != made.get("weights"):
        raise ValueError(f"The weights in {path.name} are not those that were written; get the file again.")
    return model


def _parts(model: Model) -> dict[str, nn.Module]:
    match model:
        case LatentModel():
            return {"maker": model.maker, "inverter": model.inverter}
        case ConditionalModel():
            return {"maker": model.maker, "auxiliary": model.auxiliary}


def _digest(weights: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(f"{name} {weights[name].dtype} {tuple(weights[name].shape)}".encode())
        total.update(weights[name].contiguous().numpy().tobytes())
    return total.hexdigest()
