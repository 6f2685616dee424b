"""Fast adaptive boundary attack, towards any class and towards the likeliest classes in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Clearly, Goal, Lp, Misclassify, directions, within
from casemate.core.tick import Tick, ignore
from casemate.ops.gradients import nearest_boundary
from casemate.ops.norms import nonzero, per_row, random_in_ball, reach, size
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

CROCE = Paper(
    "Minimally distorted adversarial examples with a fast adaptive boundary attack",
    "Croce, Hein",
    2020,
    "https://arxiv.org/abs/1907.02044",
)
ENSEMBLE = Paper(
    "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    "Croce, Hein",
    2020,
    "https://arxiv.org/abs/2003.01690",
)
Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class _Walk:
    """How an iterate moves: number of steps, most weight of x, overshoot, share kept going back."""

    steps: int
    alpha_max: float
    eta: float
    beta: float


# one query tells which rows are wrong as they are; a step takes one for its plane and one to judge
def _cost(params: Any, runs: int, planes: int) -> Cost:
    return Cost(queries=1 + 2 * params.steps * runs, gradients=params.steps * runs * planes)


@evasion(
    norms=("linf", "l2", "l1"),
    papers=(CROCE,),
    known_as=("fast adaptive boundary attack",),
    minimum_norm=True,
    cost=lambda params, classes: _cost(params, params.restarts, classes - 1),
)
def fab(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    restarts: Annotated[int, Ge(1)] = 1,
    alpha_max: Share = 0.1,
    eta: Annotated[float, Ge(1)] = 1.05,
    beta: Share = 0.9,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Walk along the decision boundary towards the input by exact steps onto its linearisation.

    A step projects the iterate, and with a little weight the input, onto the nearest boundary of the
    linearised model inside the box, and overshoots it; after a crossing the iterate goes part of the
    way back. With a finite radius a row leaves as soon as the ball holds an example of it.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row. Misclassification takes one backward pass a step
            for each other class. Any other goal takes one, towards the boundary with the strongest
            other class; where a third class stands between, linf walks may go round in circles.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: number of steps of each run.
        restarts: number of runs per row; the first starts at `x`, the others at random points at
            half the size of the best example, or of the radius if that is smaller.
        alpha_max: most weight of the input in a step, in (0, 1].
        eta: factor by which a step overshoots the boundary, at least 1.
        beta: share of the perturbation kept after a crossing, in (0, 1].
        rng: source of the random starts, one stream per row.
        tick: called after each step with the number of rows that are still searched.

    Returns:
        Nearest examples met (N, *S), in the ball and in [0, 1]; `x` where none was.
    """
    walk = _Walk(steps, alpha_max, eta, beta)
    return _search(oracle, x.detach(), goal, budget, walk, restarts, lambda clean: [goal], rng, tick)


@evasion(
    norms=("linf", "l2", "l1"),
    papers=(CROCE, ENSEMBLE),
    known_as=("FAB-T", "targeted FAB"),
    minimum_norm=True,
    cost=lambda params, classes: _cost(params, params.restarts * min(params.targets, classes - 1), 1),
)
def fab_t(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    targets: Annotated[int, Ge(1)] = 9,
    restarts: Annotated[int, Ge(1)] = 1,
    alpha_max: Share = 0.1,
    eta: Annotated[float, Ge(1)] = 1.05,
    beta: Share = 0.9,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Walk along the boundary with each of the likeliest other classes in turn, as AutoAttack does.

    Like `evasion.fab`, but a step takes one backward pass however many classes there are. Whatever
    reaches the goal counts, also by another class than the one of the run. With a finite radius a
    row leaves as soon as the ball holds an example of it.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row; one that names a class is run towards that class.
        budget: ball around `x` in which an example counts; may be infinite.
        steps: number of steps of each run.
        targets: number of classes to run towards, the likeliest at `x`; all others if there are fewer.
        restarts: number of runs per class; the first starts at `x`, the others at random points at
            half the size of the best example, or of the radius if that is smaller.
        alpha_max: most weight of the input in a step, in (0, 1].
        eta: factor by which a step overshoots the boundary, at least 1.
        beta: share of the perturbation kept after a crossing, in (0, 1].
        rng: source of the random starts, one stream per row.
        tick: called after each step with the number of rows that are still searched.

    Returns:
        Nearest examples met (N, *S), in the ball and in [0, 1]; `x` where none was.
    """
    walk = _Walk(steps, alpha_max, eta, beta)
    return _search(
        oracle, x.detach(), goal, budget, walk, restarts,
        lambda clean: directions(goal, clean, targets), rng, tick,
    )  # fmt: skip


def _search(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    walk: _Walk,
    restarts: int,
    split: Callable[[Tensor], Sequence[Goal]],
    rng: RowGenerator,
    tick: Tick,
) -> Tensor:
    """Run in each direction that `split` makes of the clean logits and keep the nearest example of each row."""
    clean = oracle.logits(x)
    result, nearest = x.clone(), x.new_full((len(x),), float("inf"))
    nearest[Clearly(goal).reached(clean)] = 0
    runs = [(direction, restart) for direction in split(clean) for restart in range(restarts)]
    for i, (direction, restart) in enumerate(runs):
        rows = (nearest > budget.enough).nonzero().flatten()
        origin = x[rows]
        start = _elsewhere(origin, budget, nearest[rows], rng[rows]) if restart else origin

        def report(step: int, values: Mapping[str, float], i: int = i) -> None:
            tick(i * walk.steps + step, len(runs) * walk.steps, values)

        points, sizes = _run(oracle[rows], origin, start, goal[rows], direction[rows], budget, walk, report)
        nearer = sizes < nearest[rows]
        result[rows[nearer]] = points[nearer]
        nearest[rows[nearer]] = sizes[nearer]
    return within(result, x, budget)


def _elsewhere(x: Tensor, budget: Lp, nearest: Tensor, rng: RowGenerator) -> Tensor:
    """Draw starts at half the size of the best examples, at most half the radius or the box."""
    noise = random_in_ball(x, budget.norm, 1.0, rng)
    limit = size(torch.ones_like(x), budget.norm).clamp(max=budget.eps)
    length = torch.minimum(nearest, limit) / 2 / nonzero(size(noise, budget.norm))
    return (x + noise * per_row(length, x)).clamp(0, 1)


def _run(
    oracle: GradientOracle,
    x: Tensor,
    x_adv: Tensor,
    goal: Goal,
    direction: Goal,
    budget: Lp,
    walk: _Walk,
    report: Callable[[int, Mapping[str, float]], None],
) -> tuple[Tensor, Tensor]:
    """Walk once from `x_adv`: the nearest examples met and their sizes, infinite where there is none."""
    points, nearest = x.clone(), x.new_full((len(x),), float("inf"))
    rows = torch.arange(len(x), device=x.device)
    for step in range(walk.steps):
        if not len(rows):
            break
        gap, slope = _plane(oracle, x_adv, direction, budget)
        x_adv = _advance(x_adv, x, gap, slope, budget, walk)
        logits = oracle.logits(x_adv)
        sizes = size(x_adv - x, budget.norm)
        better = Clearly(goal).reached(logits) & (sizes < nearest[rows])
        points[rows[better]] = x_adv[better]
        nearest[rows[better]] = sizes[better]
        # any crossing turns the walk back, clear or not: else it would hover on the boundary
        x_adv = torch.where(per_row(goal.reached(logits), x), x + walk.beta * (x_adv - x), x_adv)
        report(step + 1, {"standing": len(rows)})
        rows, x, x_adv, oracle, goal, direction = keep(
            nearest[rows] > budget.enough, rows, x, x_adv, oracle, goal, direction
        )
    return points, nearest


def _plane(oracle: GradientOracle, x_adv: Tensor, goal: Goal, budget: Lp) -> tuple[Tensor, Tensor]:
    """Linearise the boundary: how far each row is beyond it, in logits (N,), and its gradient."""
    if not isinstance(goal, Misclassify):
        _, gap, slope = oracle.gradient(x_adv, goal, "margin")
        return gap, slope
    z = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        logits = oracle.graph(z)
        rivals = (goal.y[:, None] + torch.arange(1, oracle.classes, device=z.device)) % oracle.classes
        return nearest_boundary(logits, z, goal.y, rivals, budget.norm)


def _advance(x_adv: Tensor, x: Tensor, gap: Tensor, slope: Tensor, budget: Lp, walk: _Walk) -> Tensor:
    """Step over the plane gap + <slope, z - x_adv> = 0, with most weight from x_adv, the rest from x."""
    gap_at_x = gap + (slope * (x - x_adv)).flatten(1).sum(1)
    gaps, starts = torch.cat([gap, gap_at_x]), torch.cat([x_adv, x])
    ascent = torch.cat([slope, slope]) * per_row(torch.where(gaps > 0, -1.0, 1.0).to(x), x)
    moves = reach(starts, ascent, gaps.abs(), budget.norm)
    near, far = size(moves, budget.norm).chunk(2)
    alpha = per_row((near / nonzero(near + far)).clamp(max=walk.alpha_max), x)
    from_adv, from_x = (starts + walk.eta * moves).chunk(2)
    return (from_adv * (1 - alpha) + from_x * alpha).clamp(0, 1)
