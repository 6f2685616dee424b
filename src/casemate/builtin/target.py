"""The built-in targets: a small classifier of clothing images, plain and adversarially trained."""

import hashlib
from collections.abc import Iterable
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable

import torch
from safetensors import safe_open
from torch import Tensor

from casemate.builtin.nets import small_cnn
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier
from casemate.ops.rng import seeded

SHAPE, CLASSES = (1, 28, 28), 10


def recipe() -> Recipe:
    """Give the recipe of the built-in target, by which its victims are trained as well."""
    return Recipe(partial(small_cnn, SHAPE, CLASSES), "small_cnn 1x28x28 10", epochs=8, batch=64, lr=3e-3)


def fashion_cnn() -> Classifier:
    """Load the built-in classifier of clothing images, trained by `recipe`."""
    return _load("fashion_cnn")


def fashion_cnn_robust() -> Classifier:
    """Load the same net, adversarially trained within linf 0.1."""
    return _load("fashion_cnn_robust")


def card(name: str) -> dict[str, str]:
    """Read how a built-in target was made: recipe, seed, digests of data and weights, accuracies."""
    with resources.as_file(_file(name)) as path, safe_open(path, "pt") as file:
        return dict(file.metadata())


def digest(tensors: Iterable[Tensor]) -> str:
    """Digest tensors by shape and bytes, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(str(tuple(tensor.shape)).encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def _load(name: str) -> Classifier:
    with resources.as_file(_file(name)) as path, safe_open(path, "pt") as file:
        made, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if digest(weights[key] for key in sorted(weights)) != made["weights"]:
        raise UsageError(
            f"The weights of the built-in {name} are not those that were shipped; install casemate again."
        )
    with seeded(0, torch.device("cpu")):
        net = small_cnn(SHAPE, CLASSES)
    net.load_state_dict(weights)
    return Classifier(net.eval(), CLASSES, SHAPE)


def _file(name: str) -> Traversable:
    return resources.files(__package__) / f"{name}.safetensors"
