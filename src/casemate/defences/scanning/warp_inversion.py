"""The least universal warp towards each class."""

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Generator

from casemate.core.data import Samples
from casemate.core.inversion import invert
from casemate.core.registry import Paper, scanning
from casemate.core.scanning import Traces, judged
from casemate.core.stamps import Warped, Warps
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import pictures_only

WANG = Paper(
    "UNICORN: a unified backdoor trigger inversion framework",
    "Wang, Mei, Zhai, Ma",
    2023,
    "https://arxiv.org/abs/2304.02786",
)


@scanning(papers=(WANG,), known_as=("UNICORN in the space of warps", "warp inversion"))
def warp_inversion(
    model: Classifier,
    clean: Samples,
    /,
    *,
    grid: Annotated[int, Ge(2)] = 4,
    steps: Annotated[int, Ge(1)] = 160,
    batch: Annotated[int, Ge(1)] = 20,
    lr: Annotated[float, Gt(0)] = 0.1,
    success: Annotated[float, Gt(0), Le(1)] = 0.9,
    index: Annotated[float, Gt(0)] = 2.0,
    rng: Generator,
    tick: Tick = ignore,
) -> Traces:
    """Recover for each class the smallest smooth warp of all pictures that calls it up.

    Triggers that move pixels instead of painting them, such as WaNet's, are nothing that can be added or
    laid over. Of the spaces in which UNICORN searches by learnt maps this is the one of warps, written
    down as what it is: a field of shifts at a few places.

    Args:
        model: classifier of pictures (C, H, W) that may have a backdoor; it stays as it is.
        clean: rows that are known to be clean, some hundred.
        grid: places along each side at which shifts are free.
        steps: gradient steps.
        batch: rows of each class and step.
        lr: learning rate of Adam, in pixels.
        success: share of the rows that a warp must steer, in (0, 1].
        index: anomaly index above which a class counts as backdoored, in deviations.
        rng: source of the first warps and of the rows.
        tick: called after each ten steps with the classes still worked on and the smallest warp.

    Returns:
        Warps by class, their sizes as root mean square shifts in pixels.

    Raises:
        NotApplicable: the inputs are no pictures, the net has no gradients, or there are no rows.
    """
    pictures_only(model.shape, "Warp inversion")
    form = Warps(grid)
    found = invert(model, clean, form, steps=steps, batch=batch, lr=lr, success=success, rng=rng, tick=tick)
    triggers = tuple(Warped(shifts) for shifts in found.free[0])
    evidence, flagged = judged(found.size, found.success, success, index)
    return Traces(evidence, flagged, found.size, found.success, triggers, "pixels of shift", found.passes)
