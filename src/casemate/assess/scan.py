"""Does a finished model carry a backdoor? Several scannings together, and one calibrated answer."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from casemate.assess.calibration import UNEVEN, Calibration, shipped, unevenness
from casemate.assess.evidence import (
    DETECTORS,
    INVERSION,
    REFERENCES,
    Evidence,
    collected,
    mean,
    references,
    title_of,
)
from casemate.assess.progress import Progress, silent
from casemate.assess.targets import Loaded, load_data, load_model
from casemate.core.data import Samples
from casemate.core.errors import UsageError
from casemate.core.target import Classifier
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate, exact_share

LEAST = 20  # clean rows without which nothing is scanned
ENOUGH = 200  # clean rows from which on an answer is given; the zoo was scanned with 500
MOST = 1000  # clean rows that are used
CLASSES = 6  # the fewest classes of a model of the zoo
ACCURATE = 0.5  # clean accuracy below which model and rows do not belong together

TRAINING, REFERENCE = "reference nets", "reference"
Outcome = Literal["backdoored", "no sign", "inconclusive"]


@dataclass(frozen=True)
class Scanned:
    """What a scan found.

    `scores` (K,) are by class, in deviations above the mean of clean models; the model's is their
    largest, `score`, and above the threshold of `calibration` it is called backdoored. `found` and
    `usual` hold the evidence by detector, of the model and of references trained on the clean rows
    alone. `why` says what makes the answer inconclusive. `options` are what repeats the scan, and
    `digests` tell whether "model" and "data" are still the same.
    """

    name: str
    data: str
    clean: Samples
    model: Classifier
    accuracy: Estimate
    found: Evidence
    usual: dict[str, Tensor]
    scores: Tensor
    calibration: Calibration
    why: str
    options: dict[str, Any]
    digests: dict[str, str]

    @property
    def score(self) -> float:
        """Score of the most suspicious class."""
        return float(self.scores.max())

    @property
    def suspect(self) -> int:
        """The most suspicious class."""
        return int(self.scores.argmax())

    @property
    def outcome(self) -> Outcome:
        """The answer."""
        if self.why:
            return "inconclusive"
        return "backdoored" if self.score > self.calibration.threshold else "no sign"

    @property
    def shares(self) -> dict[str, float]:
        """What each detector adds to the score of the suspect, the most first."""
        parts = self.calibration.shares(self.found.evidence, self.usual, self.suspect)
        return dict(sorted(parts.items(), key=lambda part: -part[1]))


def scan(
    model: Any,
    data: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    device: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Scanned:
    """Look for a backdoor in a finished model, with clean pictures and without its training set.

    Args:
        model: a specification as for `assess`, or a net or classifier in memory.
        data: clean labelled pictures likewise; of data with two parts the test part is used, and of more
            than 1,000 rows a random 1,000.
        bounds: values that the model takes where the data have 0 and 1.
        mean: subtracted per channel, after `bounds`.
        std: divided by per channel.
        device: "auto", "cpu", "cuda" or "cuda:N".
        seed: seed of all random numbers.
        progress: told of each detector and its steps.

    Returns:
        Evidence by class and the answer.

    Raises:
        UsageError: model or data cannot be had, do not fit, or are too few.
    """
    options = {"model": model if isinstance(model, str) else None, "data": data if isinstance(data, str) else None,
               "bounds": bounds, "mean": mean, "std": std, "device": device, "seed": seed}  # fmt: skip
    given = load_data(data, bounds=bounds)
    clean = clean_rows(given.test, seed)
    loaded = load_model(model, clean, bounds=bounds, mean=mean, std=std, device=device)
    _fits(loaded, clean)
    return scan_loaded(
        loaded.classifier, clean, names=(loaded.name, given.name), options=options, seed=seed,
        digests={"model": loaded.digest, "data": given.digest}, progress=progress,
    )  # fmt: skip


def scan_loaded(
    model: Classifier, clean: Samples, *, names: tuple[str, str], options: dict[str, Any], seed: int,
    digests: dict[str, str], usual: dict[str, Tensor] | None = None, progress: Progress = silent,
) -> Scanned:  # fmt: skip
    """Look for a backdoor in a classifier that is loaded already (see `scan`).

    `usual` is what an earlier scan with the same clean rows found of references; None means train some.
    """
    titles = [title_of(name) for name in DETECTORS]
    progress.plan(titles)
    if usual is None:
        progress.plan(
            [
                TRAINING,
                *(f"{REFERENCE} {i + 1}: {t}" for i in range(REFERENCES) for t in titles[: len(INVERSION)]),
            ]
        )
        usual = _usual(clean, model.classes, seed, progress)
    found = collected(model, clean, seed=seed, progress=progress)
    hits = int((model.predict(clean.x).argmax(1) == clean.y).sum())
    accuracy = exact_share(hits, len(clean))
    how = shipped()
    scores = how.scores(found.evidence, usual)
    why = _doubt(clean, model, accuracy, unevenness(found.evidence))
    if not why and how.weak_from < float(scores.max()) <= how.threshold:
        why = "its signs are weak, such as a clean model may show as well"
    return Scanned(*names, clean, model, accuracy, found, usual, scores, how, why, options, digests)


def _usual(clean: Samples, classes: int, seed: int, progress: Progress) -> dict[str, Tensor]:
    """Train references on the clean rows and collect the same evidence of them."""
    progress.start(TRAINING, TRAINING)
    nets = references(clean, seed=seed, tick=progress.step)
    progress.finish(TRAINING, None)
    parts = [
        collected(
            net, clean, seed=seed, progress=progress, title=f"{REFERENCE} {i + 1}: ", detectors=INVERSION
        )
        for i, net in enumerate(nets)
    ]
    return mean([part.evidence for part in parts], classes)


def clean_rows(given: Samples, seed: int) -> Samples:
    """Take the pictures that a scan uses; raises UsageError if there are too few, or no pictures."""
    if len(given.shape) != 3:
        raise UsageError(f"Scanning needs pictures (N, C, H, W). Got inputs of shape {given.shape}.")
    present = len(given.y.unique())
    if len(given) < LEAST or present < 2:
        raise UsageError(
            f"Scanning needs at least {LEAST} clean pictures of two classes or more. Got {len(given)} of {present}."
        )
    if len(given) <= MOST:
        return given
    return given[torch.randperm(len(given), generator=generator(seed, "clean rows"))[:MOST]]


def _fits(loaded: Loaded, clean: Samples) -> None:
    if loaded.classifier.outputs != "logits":
        raise UsageError(
            f"The model must return logits, as before a softmax. It returns {loaded.classifier.outputs}, which hide "
            "the gradients that triggers are recovered by."
        )
    if not loaded.classifier.differentiable:
        raise UsageError(
            "Scanning needs a model with gradients. This one only answers: give its weights, not its address."
        )


def _doubt(clean: Samples, model: Classifier, accuracy: Estimate, uneven: float) -> str:
    """Say why no answer can be given; empty if one can."""
    if accuracy.value < ACCURATE:
        return (
            f"the model is right on {accuracy.value:.0%} of the clean pictures; is its normalisation given, "
            "and do labels mean the same?"
        )
    if model.classes < CLASSES:
        return (
            f"the model has {model.classes} classes: with fewer than {CLASSES} there is too little to compare, "
            "and none such were measured"
        )
    if len(clean) < ENOUGH:
        return f"{len(clean)} clean pictures are too few; {ENOUGH} or more are needed"
    if uneven > UNEVEN:
        return (
            f"what calls up one class is {math.exp(uneven):.1f} times as large as for another anyway, and a trigger "
            f"that was planted does not stand out (up to {math.exp(UNEVEN):.1f} times, an answer is given)"
        )
    return ""
