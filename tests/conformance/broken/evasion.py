"""Evasion attacks with one defect each, by the promise that must catch it.

Each is `climb` (or `approach`) of the toys with something wrong around or inside it. Most defects
were seen in released libraries (see the pitfall ids).
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from casemate.core.registry import Entry
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import project
from casemate.ops.rng import RowGenerator
from conformance.evasion import Check
from conformance.toys import evasion_entry

Defect = Callable[..., Tensor]
BROKEN: dict[Check, list[Entry]] = defaultdict(list)


def breaks(promise: Check, access: type = GradientOracle, **more: Any) -> Callable[[Defect], Defect]:
    """Make an evasion attack of a defect and say which promise it breaks."""

    def keep(defect: Defect) -> Defect:
        def run(
            oracle: GradientOracle,
            x: Tensor,
            goal: Goal,
            budget: Lp,
            /,
            *,
            steps: Annotated[int, Ge(1)] = 10,
            rng: RowGenerator,
            tick: Tick = ignore,
        ) -> Tensor:
            """Attack with a defect.

            Args:
                steps: number of gradient steps, one query each.
            """
            return defect(oracle, x, goal, budget, steps=steps, rng=rng, tick=tick)

        run.__name__ = defect.__name__
        run.__annotations__["oracle"] = access
        BROKEN[promise].append(evasion_entry(run, **more))
        return defect

    return keep


def walk(oracle, x, goal, budget, direction, steps, tick, stop=lambda logits: False, start=None):
    """Walk by a direction given as a function of gradients; the last point is returned."""
    x_adv = x.detach() if start is None else start
    for step in range(steps):
        seen = oracle.gradient(x_adv, goal, "margin")
        if stop(seen.logits):
            break
        x_adv = project(x_adv + direction(seen.grad), x, budget.norm, budget.eps)
        tick(step + 1, steps, {})
    return x_adv
