"""The least universal perturbation towards each class."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Generator

from casemate.core.data import Samples
from casemate.core.inversion import invert
from casemate.core.registry import Paper, scanning
from casemate.core.scanning import Traces, judged
from casemate.core.stamps import Perturbations
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added

XIANG = Paper(
    "Detection of backdoors in trained classifiers without access to the training set",
    "Xiang, Miller, Kesidis",
    2020,
    "https://arxiv.org/abs/1908.10498",
)


@scanning(
    papers=(XIANG,), known_as=("perturbation-based backdoor detection", "targeted universal perturbation")
)
def least_perturbation(
    model: Classifier,
    clean: Samples,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 160,
    batch: Annotated[int, Ge(1)] = 20,
    lr: Annotated[float, Gt(0)] = 0.02,
    success: Annotated[float, Gt(0), Le(1)] = 0.95,
    index: Annotated[float, Gt(0)] = 2.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Traces:
    """Recover for each class the smallest change of the whole input that calls it up from any other.

    One perturbation is added to every input, and its l2 norm is kept small. Faint triggers all over the
    picture, which have no small mask, make their class far easier to reach in this way.

    Args:
        model: classifier that may have a backdoor; it stays as it is.
        clean: rows that are known to be clean, some hundred.
        steps: gradient steps.
        batch: rows of each class and step.
        lr: learning rate of Adam, in units of `x`.
        success: share of the rows that a perturbation must steer, in (0, 1].
        index: anomaly index above which a class counts as backdoored, in deviations.
        rng: source of the first perturbations and of the rows.
        tick: called after each ten steps with the classes still worked on and the smallest norm.

    Returns:
        Perturbations by class, their sizes as l2 norms in units of `x`.

    Raises:
        NotApplicable: the net has no gradients, or there are no rows.
    """
    form = Perturbations()
    # the paper treats each pair of classes by itself; from all others to one is what most backdoors do,
    # and asks for K searches instead of K (K - 1)
    found = invert(model, clean, form, steps=steps, batch=batch, lr=lr, success=success, rng=rng, tick=tick)
    triggers = tuple(Added(delta) for delta in found.free[0])
    # the paper fits a distribution to the other classes' reciprocal norms; ten values hardly tell its shape
    evidence, flagged = judged(found.size, found.success, success, index)
    return Traces(evidence, flagged, found.size, found.success, triggers, "l2", found.passes)
