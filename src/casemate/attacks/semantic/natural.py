"""Natural adversarial examples: the nearest input that a generator makes and the target misreads."""

from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, semantic
from casemate.core.semantic import Latent, SemanticBudget
from casemate.core.spaces import LatentSpace, Space, space_of
from casemate.core.target import LabelOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

ZHAO = Paper(
    "Generating natural adversarial examples", "Zhao, Dua, Singh", 2018, "https://arxiv.org/abs/1710.11342"
)
PART = 2000  # inputs that are made at a time


@semantic(
    papers=(ZHAO,),
    known_as=(
        "Generating natural adversarial attack", "Generating natural adversarial",
        "natural adversarial examples",
    ),
)  # fmt: skip
def natural(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: SemanticBudget,
    /,
    *,
    search: Literal["iterative", "hybrid"] = "hybrid",
    samples: Annotated[int, Ge(1)] = 5000,
    step: Annotated[float, Gt(0)] = 0.01,
    failures: Annotated[int, Ge(1)] = 5,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Search shells around an input's code for the nearest one that the target misreads.

    Iterative stochastic search widens a thin shell from the code outwards until one of `samples` codes in
    it succeeds. Hybrid shrinking search starts with the whole ball, halves towards what it finds, and ends
    with thin shells inwards; it needs fewer queries and may stop a little farther away.

    Args:
        oracle: access to the target's decisions.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: generator and radius, a `Latent` budget.
        search: which of the paper's two algorithms.
        samples: codes drawn in each shell; one query each.
        step: thickness of the thin shells, in standard deviations of a code's values.
        failures: empty shells in a row after which the hybrid search goes on to its next part.
        rng: source of the codes, one stream per row.
        tick: called after each shell with the mean distance found so far.

    Returns:
        Codes (N, A); those of rows without success are the inputs' own.

    Raises:
        NotApplicable: the budget is not latent.
    """
    if not isinstance(budget, Latent):
        raise NotApplicable("semantic.natural moves codes of a generator: it needs a latent budget")
    space = space_of(budget, x, goal)
    assert isinstance(space, LatentSpace)
    n, radius = len(x), budget.radius
    best, distance = space.start.clone(), x.new_full((n,), float("inf"))
    if radius == 0:
        return best
    low = x.new_zeros(n)
    high = x.new_full((n,), min(step, radius) if search == "iterative" else radius)
    empty = torch.zeros(n, dtype=torch.int64, device=x.device)
    inwards, active = (torch.zeros(n, dtype=torch.bool, device=x.device) for _ in range(2))
    active[:] = True
    spent = 0
    while bool(active.any()) and (budget.queries is None or spent + samples <= budget.queries):
        rows = active.nonzero().flatten()
        length, codes = _shell(
            oracle[rows], space[rows], goal[rows], low[rows], high[rows], samples, rng[rows]
        )
        spent += samples
        hit = length < distance[rows]
        best[rows[hit]], distance[rows[hit]] = codes[hit], length[hit]
        found = torch.zeros_like(active)
        found[rows[hit]] = True
        match search:
            case "iterative":
                active &= ~found & (high < radius)
                low, high = high, (high + step).clamp(max=radius)
            case "hybrid":
                empty = torch.where(found, 0, empty + 1)
                over = ~found & ~inwards & ((high - low < step) | (empty >= failures))
                active &= ~(over & distance.isinf())
                # the last part starts anew below the nearest code found
                stopped = inwards & ((empty >= failures) | (~found & (low <= 0)))
                active &= ~stopped
                inwards = inwards | over
                empty = torch.where(over, 0, empty)
                top = torch.where(found | over, distance.clamp(max=radius), torch.where(inwards, low, high))
                thin = (top - step).clamp(min=0)
                wide = torch.where(found, top / 2, (low + high) / 2)
                low, high = torch.where(inwards, thin, wide), top
            case _:
                assert_never(search)
        reached = distance[distance.isfinite()]
        tick(min(spent, budget.queries or spent), budget.queries or 2 * spent,
             {"latent distance": reached.mean().item()} if len(reached) else {})  # fmt: skip
    return best


def _shell(
    oracle: LabelOracle, space: Space, goal: Goal, low: Tensor, high: Tensor, samples: int, rng: RowGenerator
) -> tuple[Tensor, Tensor]:
    """Draw codes with lengths in [low, high) (N,) and give the nearest success: distance, inf if none, and code."""
    size = space.start.shape[1]
    way = rng.normal(samples, size).to(low)
    length = low[:, None] + rng.uniform(samples).to(low) * (high - low)[:, None]  # (N, samples)
    move = way / way.norm(dim=2, keepdim=True) * length[:, :, None]
    codes = (space.start[:, None] + move).flatten(0, 1)
    each = torch.arange(len(low), device=low.device).repeat_interleave(samples)
    reached = [
        oracle[each[part]].succeeds(space[each[part]].decode(codes[part]), goal[each[part]])
        for part in torch.arange(len(codes), device=low.device).split(PART)
    ]
    hits = torch.cat(reached).view_as(length)
    nearest, at = torch.where(hits, length, torch.full_like(length, float("inf"))).min(1)
    return nearest, codes.view(len(low), samples, size)[torch.arange(len(low), device=low.device), at]
