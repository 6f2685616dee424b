"""Neural Cleanse."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Generator

from casemate.core.data import Samples
from casemate.core.inversion import invert
from casemate.core.registry import Paper, scanning
from casemate.core.scanning import Traces, judged
from casemate.core.stamps import Patches
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Mixed, pictures_only

WANG = Paper(
    "Neural Cleanse: identifying and mitigating backdoor attacks in neural networks",
    "Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao",
    2019,
    "https://people.cs.uchicago.edu/~ravenben/publications/pdf/backdoor-sp19.pdf",
)


@scanning(papers=(WANG,), known_as=("Neural Cleanse", "NC", "trigger inversion"))
def neural_cleanse(
    model: Classifier,
    clean: Samples,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 160,
    batch: Annotated[int, Ge(1)] = 20,
    lr: Annotated[float, Gt(0)] = 0.1,
    success: Annotated[float, Gt(0), Le(1)] = 0.99,
    index: Annotated[float, Gt(0)] = 2.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Traces:
    """Recover for each class the smallest patch that calls it up, and look for one that is far too small.

    A patch is a mask (H, W) in [0, 1] and a pattern (C, H, W); the mask's sum is kept small. A backdoor
    is a shortcut: the patch of its class needs far fewer pixels than those of the others. The class whose
    mask lies more than `index` deviations below the median is called backdoored.

    Triggers that change the whole picture a little have no small mask. With few classes there is no
    spread to measure, and of ten clean classes one lies so low by chance now and then.

    Args:
        model: classifier of pictures (C, H, W) that may have a backdoor; it stays as it is.
        clean: rows that are known to be clean, some hundred.
        steps: gradient steps; the paper passes over the data several times.
        batch: rows of each class and step.
        lr: learning rate of Adam, in the units of atanh.
        success: share of the rows that a patch must steer, in (0, 1].
        index: anomaly index above which a class counts as backdoored, in deviations.
        rng: source of the first patches and of the rows.
        tick: called after each ten steps with the classes still worked on and the smallest mask.

    Returns:
        Masks and patterns by class, their sizes in pixels.

    Raises:
        NotApplicable: the inputs are no pictures, the net has no gradients, or there are no rows.
    """
    pictures_only(model.shape, "Neural Cleanse")
    form = Patches()
    found = invert(model, clean, form, steps=steps, batch=batch, lr=lr, success=success, rng=rng, tick=tick)
    masks, patterns = form.parts(found.free)
    triggers = tuple(Mixed(pattern, mask) for mask, pattern in zip(masks, patterns, strict=True))
    evidence, flagged = judged(found.size, found.success, success, index)
    return Traces(evidence, flagged, found.size, found.success, triggers, "pixels", found.passes)
