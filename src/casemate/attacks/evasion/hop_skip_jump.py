"""HopSkipJump: the nearest example, from decisions alone."""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import LabelOracle
from casemate.core.threat import Goal, Lp, within
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import nonzero, per_row, size, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

CHEN = Paper(
    "HopSkipJumpAttack: a query-efficient decision-based attack",
    "Chen, Jordan, Wainwright",
    2020,
    "https://arxiv.org/abs/1904.02144",
)
FIRST_PROBE = 0.1  # distance of the first probes, in units of x, as in the authors' code
BLEND = 1e-3  # precision to which noise is blended with the input, likewise
# the paper halves without end; float32 knows neither shorter jumps nor finer blends
JUMPS, BLENDS = 20, 24
# a point on the boundary itself falls back when the same net is computed in another order
BEYOND = 1e-3  # of the distance
ASKED, DRAWN = 512, 2**22  # probes asked together, for all rows; values drawn together, for one


@evasion(
    norms=("l2", "linf"),
    papers=(CHEN,),
    known_as=("HSJA", "Boundary Attack++", "HopSkipJumpAttack"),
    minimum_norm=True,
    cost=lambda params, classes: Cost(
        queries=2 + params.starts
        + sum(_probes(params.initial_evals, params.max_evals, step) for step in range(params.steps))
        + (params.steps + 2) * BLENDS + params.steps * JUMPS,
        exact=False,
    ),
)  # fmt: skip
def hop_skip_jump(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 64,
    initial_evals: Annotated[int, Ge(1)] = 100,
    max_evals: Annotated[int, Ge(1)] = 10_000,
    starts: Annotated[int, Ge(1)] = 1000,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Walk along the decision boundary towards the input, led by random probes.

    Starts from noise that reaches the goal. Each step finds the boundary between the point and `x`
    by bisection, estimates the boundary's normal from the probes around that reach the goal, and
    jumps along it. The budget's limit of queries ends the walk of each row in time; a row for which
    no start is found, and one that reaches the goal already, comes back as it is.

    Args:
        oracle: access to the target's decisions.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball to get into, or an infinite radius to go on for as long as is allowed.
        steps: number of jumps.
        initial_evals: probes at the first step, growing with the square root of the step.
        max_evals: most probes at one step.
        starts: uniform noise images tried per row until one reaches the goal; the authors try 10,000.
        rng: source of starts and probes, one stream per row.
        tick: called after each start that is tried and each step, told in probes, with the mean distance and the
            number of rows that are not in the ball.

    Returns:
        For each row the nearest point found (N, *S) that reaches the goal, or `x` where there is
        none in the ball.
    """
    x = x.detach()
    whole, result, rows = (oracle, x, goal), x.clone(), torch.arange(len(x), device=x.device)
    plan = (_probes(initial_evals, max_evals, step) for step in range(steps))
    planned = list(accumulate(plan, initial=starts))
    stand = ~oracle.succeeds(x, goal)
    # one query is kept for the last question
    search = budget if budget.queries is None else budget.model_copy(update={"queries": budget.queries - 1})
    rows, x, oracle, goal, rng = keep(stand, rows, x, oracle, goal, rng)
    point, found = _start(oracle, x, goal, search, starts, rng, lambda i: tick(i, planned[-1], {}))
    rows, x, point, oracle, goal, rng = keep(found, rows, x, point, oracle, goal, rng)
    probe = torch.full_like(size(x, "linf"), FIRST_PROBE)
    if budget.norm == "linf":
        # in l2 the search for the boundary is this blend
        point = _blended(oracle, x, point, goal, search, BLEND)
    best = point = _to_boundary(oracle, x, point, goal, search)
    for step in range(steps):
        result[rows] = best
        evals = _probes(initial_evals, max_evals, step)
        count = (_left(oracle, search, x) - _reserve(x, search)).clamp(max=evals)
        # a quarter of the probes is the least that is worth a jump
        go = ((1 + BEYOND) * size(best - x, budget.norm) > budget.enough) & (4 * count >= evals)
        rows, x, point, best, probe, count, oracle, goal, rng = keep(
            go, rows, x, point, best, probe, count, oracle, goal, rng
        )
        if not len(rows):
            break
        move = steepest(_normal(oracle, point, goal, probe, count, evals, budget, rng), budget.norm)
        far = size(point - x, budget.norm)
        jumped = _jump(oracle, point, goal, search, move, far / (step + 1) ** 0.5)
        # the paper's delta: the distance before the bisection, over the number of values
        probe = size(jumped - x, budget.norm) / x[0].numel()
        point = _to_boundary(oracle, x, jumped, goal, search)
        nearer = size(point - x, budget.norm) < size(best - x, budget.norm)
        best = torch.where(per_row(nearer, x), point, best)
        tick(planned[step + 1], planned[-1], {"distance": far.mean().item(), "standing": len(rows)})
    result[rows] = best
    return within(_beyond(*whole, result, budget), whole[1], budget)


def _probes(first: int, most: int, step: int) -> int:
    return min(int(first * (step + 1) ** 0.5), most)


def _left(oracle: LabelOracle, budget: Lp, x: Tensor) -> Tensor:
    """Queries that each row may still ask, (N,)."""
    most = 2**62 if budget.queries is None else budget.queries
    return (most - oracle.ledger.queries[oracle.rows]).to(x.device)


def _precision(x: Tensor, budget: Lp) -> float:
    """The paper's theta, relative to the distance: d^-1.5 in l2, d^-2 in linf."""
    d = x.shape[1:].numel()
    return 1 / (d * math.sqrt(d)) if budget.norm == "l2" else 1 / d**2


def _reserve(x: Tensor, budget: Lp) -> int:
    """Queries to keep back so that the probes' answer can be used: two jumps and a bisection."""
    return 2 + min(BLENDS, math.ceil(-math.log2(_precision(x, budget))))


def _start(
    oracle: LabelOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    starts: int,
    rng: RowGenerator,
    tried: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Look for noise that reaches the goal: points (N, *S), and which rows have one, (N,) bool."""
    point = x.clone()
    missing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for i in range(starts):
        rows = (missing & (_left(oracle, budget, x) > 0)).nonzero().flatten()
        if not len(rows):
            break
        noise = rng[rows].uniform(*x.shape[1:]).to(x)
        hit = oracle[rows].succeeds(noise, goal[rows])
        point[rows[hit]] = noise[hit]
        missing[rows[hit]] = False
        tried(i + 1)
    return point, ~missing


def _to_boundary(oracle: LabelOracle, x: Tensor, point: Tensor, goal: Goal, budget: Lp) -> Tensor:
    """Bring points that reach the goal as near to x (N, *S) as they still do."""
    theta = _precision(x, budget)
    if budget.norm == "l2":
        return _blended(oracle, x, point, goal, budget, theta)

    def clipped(radius: Tensor, rows: Tensor) -> Tensor:
        return point[rows].minimum(x[rows] + radius).maximum(x[rows] - radius)

    far = size(point - x, "linf")
    return _bisect(oracle, point, goal, budget, clipped, far, theta * far.clamp(max=1))


def _blended(
    oracle: LabelOracle, x: Tensor, point: Tensor, goal: Goal, budget: Lp, precision: float
) -> Tensor:
    """Mix as much of x (N, *S) into points that reach the goal as they bear."""

    def blend(share: Tensor, rows: Tensor) -> Tensor:
        return x[rows] + share * (point[rows] - x[rows])

    one = torch.ones_like(size(x, "linf"))
    return _bisect(oracle, point, goal, budget, blend, one, precision * one)


def _bisect(
    oracle: LabelOracle,
    point: Tensor,
    goal: Goal,
    budget: Lp,
    path: Callable[[Tensor, Tensor], Tensor],
    far: Tensor,
    tolerance: Tensor,
) -> Tensor:
    """Halve the way from x to points (N, *S) at `far` (N,); each result has been seen to succeed."""
    point, near = point.clone(), torch.zeros_like(far)
    for _ in range(BLENDS):
        rows = ((far - near > tolerance) & (_left(oracle, budget, point) > 0)).nonzero().flatten()
        if not len(rows):
            break
        middle = (near + far)[rows] / 2
        tried = path(per_row(middle, point), rows).clamp(0, 1)
        hit = oracle[rows].succeeds(tried, goal[rows])
        point[rows[hit]] = tried[hit]
        far = far.index_put((rows[hit],), middle[hit])
        near = near.index_put((rows[~hit],), middle[~hit])
    return point


def _beyond(oracle: LabelOracle, x: Tensor, goal: Goal, point: Tensor, budget: Lp) -> Tensor:
    """Move found points (N, *S) a little farther from x where they still reach the goal there."""
    delta = point - x
    rows = ((size(delta, budget.norm) > 0) & (_left(oracle, budget, x) > 0)).nonzero().flatten()
    tried = (x + (1 + BEYOND) * delta)[rows].clamp(0, 1)
    hit = oracle[rows].succeeds(tried, goal[rows])
    return point.index_put((rows[hit],), tried[hit])


def _normal(
    oracle: LabelOracle,
    point: Tensor,
    goal: Goal,
    probe: Tensor,
    count: Tensor,
    evals: int,
    budget: Lp,
    rng: RowGenerator,
) -> Tensor:
    """Estimate the boundary's normal at points (N, *S): mean of the probes, by their success.

    `count` (N,) of `evals` probes, at distance `probe` (N,), are asked for each row. Their mean
    success is subtracted, as the paper does to lower the variance.
    """
    signed, plain, votes = torch.zeros_like(point), torch.zeros_like(point), torch.zeros_like(probe)
    block = max(1, min(evals, ASKED, DRAWN // point.shape[1:].numel()))
    for rows in torch.arange(len(point), device=point.device).split(max(1, ASKED // block)):
        centre, length = point[rows, None], per_row(probe[rows], point)[:, None]
        for numbers in torch.arange(evals, device=point.device).split(block):
            asked = (centre + length * _directions(rng[rows], len(numbers), budget, point)).clamp(0, 1)
            mask = numbers < count[rows, None]
            owners = rows[:, None].expand_as(mask)[mask]
            hit = oracle[owners].succeeds(asked[mask], goal[owners])
            sign = point.new_zeros(mask.shape)
            sign[mask] = 2 * hit.to(sign) - 1
            # probes are clipped to the box: what counts is where they went
            moved = (asked - centre) / nonzero(length)
            signed[rows] += torch.einsum("gn,gn...->g...", sign, moved)
            plain[rows] += torch.einsum("gn,gn...->g...", mask.to(sign), moved)
            votes[rows] += sign.sum(1)
    mean = per_row(votes / count, point)
    return torch.where(mean.abs() == 1, signed, signed - mean * plain)


def _directions(rng: RowGenerator, n: int, budget: Lp, x: Tensor) -> Tensor:
    """Draw directions (N, n, *S) of l2 size 1: evenly in l2, from the cube in linf."""
    shape = (n, *x.shape[1:])
    draws = (rng.normal(*shape) if budget.norm == "l2" else 2 * rng.uniform(*shape) - 1).to(x)
    flat = draws.flatten(2)
    return (flat / nonzero(flat.norm(dim=2, keepdim=True))).view_as(draws)


def _jump(oracle: LabelOracle, point: Tensor, goal: Goal, budget: Lp, move: Tensor, length: Tensor) -> Tensor:
    """Move points (N, *S) by `length` (N,), halved until they succeed; where none does, they stay."""
    jumped, waiting = point.clone(), torch.ones_like(length, dtype=torch.bool)
    for _ in range(JUMPS):
        rows = (waiting & (_left(oracle, budget, point) > 0)).nonzero().flatten()
        if not len(rows):
            break
        tried = (point[rows] + per_row(length[rows], point) * move[rows]).clamp(0, 1)
        hit = oracle[rows].succeeds(tried, goal[rows])
        jumped[rows[hit]] = tried[hit]
        waiting[rows[hit]] = False
        length = length / 2
    return jumped
