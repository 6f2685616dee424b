"""Models ready to be attacked, from whatever names them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from casemate.assess.digest import digest, digest_net
from casemate.assess.result import Flag
from casemate.assess.sources import find_model
from casemate.assess.untrained import Normalise, Normalised
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier

TRIAL = 8  # rows that a loaded model is tried on


@dataclass(frozen=True)
class Loaded:
    """A target ready to be attacked.

    `make` builds an untrained net of the same architecture, also in another process; None where
    that cannot be had, and then nothing that trains the model can be tested. `recipe` is how the
    target itself was trained, where that is known. `flags` tell what was noticed on the way.
    """

    classifier: Classifier
    make: Callable[[], nn.Module] | None
    name: str
    digest: str
    flags: tuple[Flag, ...] = ()
    recipe: Recipe | None = None


def load_model(
    spec: Any,
    data: Samples,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    device: str | torch.device = "cpu",
    classes: int | None = None,
) -> Loaded:
    """Load a model by its specification and try it on some rows.

    Args:
        spec: a text of one of the forms in `FORMS`, or a net or classifier in memory.
        data: test rows; the model must take inputs of their shape and know their labels.
        bounds: values that the net takes where the data have 0 and 1.
        mean: subtracted per channel, after `bounds`; empty for none.
        std: divided by per channel; empty for none.
        device: "auto", "cpu", "cuda" or "cuda:N".
        classes: number of classes K; None means as many as the model returns.

    Returns:
        The target with its digest, and what was noticed on the way.

    Raises:
        UsageError: the model cannot be had, or does not fit the data.
    """
    place = device_of(device)
    check_normalisation(bounds, mean, std, data.shape)
    declared = isinstance(spec, Classifier) or (isinstance(spec, str) and spec.startswith("builtin:"))
    if declared and (mean or bounds != (0.0, 1.0)):
        raise UsageError("--bounds, --mean and --std must be left out: this model declares its own.")
    if isinstance(spec, str) and spec.startswith("builtin:"):
        return _builtin(spec, data, place)
    source = find_model(spec, data, bounds, place, classes)
    if isinstance(spec, Classifier):
        trial = replace(spec, net=source.net, device=place)
    else:
        net = source.net.to(place)
        trial = Classifier(net, 0, data.shape, bounds, mean, std, source.outputs or "logits",
                           differentiable=source.differentiable, device=place)  # fmt: skip
    # before the trial, in which a net may note down what it saw
    content = source.digest or digest_net(source.net)
    target, flags = tried(trial, data, classes, source.outputs)
    seen = digest(str((target.bounds, target.mean, target.std, target.outputs)), content)
    name = spec if isinstance(spec, str) else type(source.net).__name__
    make = source.make
    if make is not None and (mean or bounds != (0.0, 1.0)):
        make = Normalised(make, Normalise(bounds, mean, std))
    return Loaded(target, make, name, seen, (*source.flags, *flags))


def _builtin(spec: str, data: Samples, device: torch.device) -> Loaded:
    from casemate.builtin import target

    known = {"fashion-cnn": target.fashion_cnn, "fashion-cnn-robust": target.fashion_cnn_robust}
    name = spec.removeprefix("builtin:")
    if name not in known:
        raise UsageError(f"The built-in models are {', '.join(known)}. Got '{name}'.")
    given = known[name]()
    if data.shape != given.shape:
        raise UsageError(
            f"The built-in model {name} takes inputs of shape {given.shape}. The data has {data.shape}."
        )
    classifier, flags = tried(
        replace(given, net=given.net.to(device), device=device), data, None, given.outputs
    )
    recipe = target.recipe()
    return Loaded(classifier, recipe.make, spec, digest_net(given.net), flags, recipe)


def device_of(name: str | torch.device) -> torch.device:
    """Choose a device by name; "auto" is a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N. Got '{name}'.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device '{name}' was asked for, and no GPU is available; use --device cpu.")
    return device


def check_normalisation(
    bounds: tuple[float, float], mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, ...]
) -> None:
    """Refuse bounds, means and deviations that cannot be meant."""
    if not bounds[0] < bounds[1]:
        raise UsageError(f"--bounds must be LOW,HIGH with LOW < HIGH. Got {bounds[0]:g},{bounds[1]:g}.")
    if bool(mean) != bool(std):
        raise UsageError("--mean and --std must be given together, one number per channel each.")
    for option, values in (("--mean", mean), ("--std", std)):
        if values and len(values) not in (1, shape[0]):
            raise UsageError(
                f"{option} must have one number per channel, {shape[0]} here, or one. Got {len(values)}."
            )
    if any(not s > 0 for s in std):
        raise UsageError(f"--std must be above 0. Got {min(std):g}.")


def tried(
    target: Classifier, data: Samples, classes: int | None, outputs: str
) -> tuple[Classifier, tuple[Flag, ...]]:
    """Try a target on some rows: the target with its number of classes and kind of outputs."""
    x = data.x[:TRIAL]
    out = _answers(target, x)
    k = out.shape[1]
    if classes is not None and classes != k:
        raise UsageError(f"The model must return {classes} scores per input. It returns {k}.")
    if k < data.classes:
        raise UsageError(
            f"The model must know every label of the data, 0 .. {data.classes - 1}. It returns {k} scores."
        )
    bad = ~out.isfinite().all(1)
    if bad.all():
        raise UsageError(
            "The model must return finite numbers. It returns NaN or infinity for every row it was tried on."
        )
    flags = []
    if k > data.classes:
        detail = f"the model has {k} classes, the data {data.classes}: label i must mean output i"
        flags.append(Flag(code="more-classes", detail=detail))
    sums = out.sum(1)
    if not outputs and bool((out >= 0).all() and ((sums - 1).abs() < 1e-3).all()):
        outputs = "probabilities"
        flags.append(
            Flag(
                code="probabilities", detail="outputs are in [0, 1] and add up to 1; their logarithm is used"
            )
        )
    return replace(target, classes=k, outputs=outputs or target.outputs), tuple(flags)


class _Witness(nn.Module):
    """Lets a net answer and looks at the type of what comes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Answer x (N, *S)."""
        out = self.net(x)
        if not isinstance(out, Tensor):
            raise UsageError(
                f"The model must return a tensor of scores (N, K). It returns a {type(out).__name__}."
            )
        return out


def _answers(target: Classifier, x: Tensor) -> Tensor:
    try:
        out = replace(target, net=_Witness(target.net), outputs="logits").predict(x)
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise UsageError(f"The model failed on a batch of shape {tuple(x.shape)}: {text}.") from error
    if out.dim() != 2 or len(out) != len(x) or out.shape[1] < 2:
        hint = (
            " A single score per input must become two: torch.stack([-z, z], 1)."
            if out.numel() == len(x)
            else ""
        )
        raise UsageError(
            f"The model must return scores (N, K), here ({len(x)}, K). It returns shape {tuple(out.shape)}.{hint}"
        )
    return out
