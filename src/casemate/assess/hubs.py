"""Models and data by the names of other libraries, if these are installed; nothing is downloaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from casemate.core.errors import UsageError


def timm_net(name: str, *, classes: int | None = None, pretrained: bool = True) -> nn.Module:
    """Build a timm model.

    Args:
        name: the model's name in timm.
        classes: number of classes K; None means the model's own.
        pretrained: take the weights that timm finds in its cache.

    Returns:
        The net.

    Raises:
        UsageError: timm is not installed or cannot make the model.
    """
    try:
        import timm
    except ImportError:
        raise UsageError(f"'timm:{name}' needs the package timm: pip install timm.") from None
    settings = {} if classes is None else {"num_classes": classes}
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, **settings)
    except Exception as error:
        raise UsageError(f"timm cannot make '{name}': {_line(error)}.") from error
    return net


class Scores(nn.Module):
    """A model of the transformers library, reduced to its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Score pixel values x (N, C, H, W): logits (N, K)."""
        logits: Tensor = self.inner(pixel_values=x).logits
        return logits


def hf_net(name: str) -> nn.Module:
    """Open an image classifier of the transformers library from a folder or its cache."""
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        raise UsageError(f"'hf:{name}' needs the package transformers: pip install transformers.") from None
    try:
        inner = AutoModelForImageClassification.from_pretrained(
            name, local_files_only=True, use_safetensors=True
        )
    except Exception as error:
        raise UsageError(f"transformers cannot open '{name}' from disk: {_line(error)}.") from error
    return Scores(inner)


def hf_arrays(name: str) -> dict[str, Any]:
    """Read a data set of the datasets library from a folder of `save_to_disk` or its cache.

    It must have an image column and a class column, and a split "test" or "validation"; "train"
    is optional. Returns lists of pictures and labels by part, and the names of the classes.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError(f"'hf:{name}' needs the package datasets: pip install datasets.") from None
    try:
        with _offline(datasets.config):
            found = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    except Exception as error:
        raise UsageError(f"datasets cannot open '{name}' from disk: {_line(error)}.") from error
    if not isinstance(found, datasets.DatasetDict):
        found = {"test": found}
    test = found.get("test") or found.get("validation")
    if test is None:
        raise UsageError(
            f"The data set '{name}' must have a part 'test' or 'validation'. It has {', '.join(found)}."
        )
    parts = {"test": test} | ({"train": found["train"]} if "train" in found else {})
    image = _column(test.features, datasets.Image, name)
    label = _column(test.features, datasets.ClassLabel, name)
    arrays: dict[str, Any] = {"names": tuple(test.features[label].names)}
    for part, rows in parts.items():
        arrays[f"x_{part}"], arrays[f"y_{part}"] = list(rows[image]), list(rows[label])
    return arrays


@contextmanager
def _offline(settings: Any) -> Iterator[None]:
    """Keep the library from the network for the time being; it has no argument for that."""
    before = settings.HF_HUB_OFFLINE
    settings.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before


def _column(features: Any, kind: type, name: str) -> str:
    for column, feature in features.items():
        if isinstance(feature, kind):
            return str(column)
    raise UsageError(
        f"The data set '{name}' must have a column of kind {kind.__name__}. It has {', '.join(features)}."
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
