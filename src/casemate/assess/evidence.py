"""What all scannings together say of each class of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from casemate.assess.progress import Progress, silent
from casemate.builtin.nets import small_cnn
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.registry import find
from casemate.core.scanning import Traces
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.weights import lipschitz, signature
from casemate.ops.rng import generator

NEURAL_CLEANSE, ABS = "scanning.neural_cleanse", "scanning.artificial_brain_stimulation"
# what the score is made of; ABS and weights told clean from backdoored models no better beside them
INVERSION = (NEURAL_CLEANSE, "scanning.least_perturbation", "scanning.warp_inversion")
DETECTORS = (*INVERSION, ABS)
HALF = 0.5  # of an ordinary class's mask is what a patch that excites neurons may cover
NETS: dict[str, Callable[..., nn.Module]] = {"small_cnn": partial(small_cnn, width=8, hidden=32)}
REFERENCES = len(NETS)


@dataclass(frozen=True)
class Evidence:
    """Evidence (K,) by detector, the traces behind it, and why a detector was left out."""

    evidence: dict[str, Tensor]
    traces: dict[str, Traces]
    left_out: dict[str, str] = field(default_factory=dict)


def title_of(name: str) -> str:
    """Name a detector as people read it."""
    return name.partition(".")[2].replace("_", " ")


def collected(
    model: Classifier, clean: Samples, *, seed: int, progress: Progress = silent, title: str = "",
    detectors: Sequence[str] = DETECTORS,
) -> Evidence:  # fmt: skip
    """Ask detectors about a model."""
    evidence: dict[str, Tensor] = {}
    traces: dict[str, Traces] = {}
    left_out: dict[str, str] = {}
    for name in detectors:
        label = f"{title}{title_of(name)}"
        progress.start(label, label)
        try:
            settings = _settings(name, traces, clean)
            traces[name] = find(name).run(
                model, clean, rng=generator(seed, name), tick=progress.step, **settings
            )
            evidence[name] = traces[name].evidence
        except NotApplicable as error:
            left_out[name] = str(error)
        progress.finish(label, None)
    weights: dict[str, Callable[[Classifier], Tensor | float]] = {
        "weights.signature": signature, "weights.lipschitz": lipschitz,
    }  # fmt: skip
    for name, measure in weights.items():
        try:
            evidence[name] = torch.as_tensor(measure(model)).expand(model.classes)
        except NotApplicable as error:
            left_out[name] = str(error)
    return Evidence(evidence, traces, left_out)


def _settings(name: str, known: Mapping[str, Traces], clean: Samples) -> dict[str, float]:
    """Let the triggers of ABS cover half of what an ordinary class needs, where that is known.

    Pictures of many pixels have natural triggers of a small share of them, and small ones of a large.
    """
    if name != ABS or NEURAL_CLEANSE not in known:
        return {}
    usual = float(torch.quantile(known[NEURAL_CLEANSE].size, 0.5))
    return {"cover": min(1.0, max(1.0, HALF * usual) / (clean.shape[1] * clean.shape[2]))}


def mean(found: Sequence[Mapping[str, Tensor]], classes: int) -> dict[str, Tensor]:
    """Average evidence by detector; classes that only the model knows have the usual evidence, 0."""
    averages = {}
    for name in found[0]:
        parts = torch.stack([each[name].double() for each in found if name in each]).mean(0)
        averages[name] = torch.nn.functional.pad(parts, (0, classes - len(parts)))
    return averages


def references(clean: Samples, *, seed: int, tick: Tick = ignore) -> list[Classifier]:
    """Train nets on the clean rows alone: what they show of a class, they show of the data."""
    found = []
    for name, make in NETS.items():
        net = partial(make, clean.shape, clean.classes)
        how = Recipe(net, f"reference {name}", epochs=30, batch=32, lr=3e-3)
        found.append(how(clean, rng=generator(seed, "reference", name), tick=tick))
    return found
