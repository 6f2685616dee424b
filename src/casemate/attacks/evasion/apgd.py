"""Auto-PGD: projected gradient ascent that chooses its own step size, untargeted and targeted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp, directions
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import per_row, project, random_in_ball, steepest
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

CROCE = Paper(
    "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    "Croce, Hein",
    2020,
    "https://arxiv.org/abs/2003.01690",
)
INERTIA = 0.25  # 1 - alpha of the paper: share of the last move that the next one keeps
RISING = 0.75  # rho: with fewer rising steps than this share, the step is halved


@evasion(
    norms=("linf", "l2"),
    papers=(CROCE,),
    known_as=("Auto-PGD", "AutoPGD", "APGD-CE", "APGD-DLR"),
    cost=lambda params, classes: Cost(
        queries=params.restarts * (params.steps + 1), gradients=params.restarts * params.steps
    ),
)
def apgd(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    restarts: Annotated[int, Ge(1)] = 1,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the goal's loss with momentum and a step size that halves where progress stalls.

    Starts with steps of 2 * eps. At set times, a row whose loss rose too rarely, or which found no
    better point, halves its step and goes on from its best point. A row that reaches the goal
    leaves at once.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps from each start; one more forward pass judges the last.
        restarts: number of random starts per row.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate; `dlr` is the paper's difference of logits ratio.
        rng: source of the random starts, one stream per row.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        For each row the point (N, *S) that reaches the goal, else that of highest loss, in the
        ball and in [0, 1].
    """
    goals = [goal] * restarts
    return _climb(oracle, x, goals, budget, loss, steps, rng, tick)


@evasion(
    norms=("linf", "l2"),
    papers=(CROCE,),
    known_as=("APGD-T", "targeted Auto-PGD", "APGD-DLR-T"),
    cost=lambda params, classes: Cost(
        queries=1 + min(params.targets, classes - 1) * (params.steps + 1),
        gradients=min(params.targets, classes - 1) * params.steps,
    ),
)
def apgd_t(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    targets: Annotated[int, Ge(1)] = 9,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Run Auto-PGD towards one class after another, the likeliest first.

    Climbs the targeted difference of logits ratio. One forward pass on `x` ranks the classes. A
    goal that names a class is pursued by that class alone, at the cost of one target.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps towards each class; one more forward pass judges the last.
        targets: number of classes tried, at most all but one.
        rng: source of the random starts, one stream per row.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        For each row the point (N, *S) that reaches the goal, else that of highest loss towards any
        class, in the ball and in [0, 1].
    """
    logits = oracle.logits(x)
    result = x.clone()
    rows = torch.arange(len(x), device=x.device)
    stand = ~goal.reached(logits)
    rows, x, logits, oracle, goal, rng = keep(stand, rows, x, logits, oracle, goal, rng)
    goals = directions(goal, logits, targets)
    result[rows] = _climb(oracle, x, goals, budget, "dlr", steps, rng, tick)
    return result


def _climb(
    oracle: GradientOracle,
    x: Tensor,
    goals: Sequence[Goal],
    budget: Lp,
    loss: Loss,
    steps: int,
    rng: RowGenerator,
    tick: Tick,
) -> Tensor:
    """Climb to one goal after another from new random starts; each row keeps its best point."""
    result, top = x.clone(), x.new_full((len(x),), float("-inf"))
    rows = torch.arange(len(x), device=x.device)
    for run, goal in enumerate(goals):
        if not len(rows):
            break
        start = (x + random_in_ball(x, budget.norm, budget.radius, rng)).clamp(0, 1)

        def told(step: int, total: int, values: Mapping[str, float], /, run: int = run) -> None:
            tick(run * total + step, len(goals) * total, values)

        best, value, done = _ascend(oracle, x, start, goal[rows], budget, loss, steps, told)
        better = done | (value > top[rows])
        result[rows[better]], top[rows[better]] = best[better], value[better]
        rows, x, oracle, rng = keep(~done, rows, x, oracle, rng)
    return result


@dataclass
class _Path:
    """Where each row's ascent is; every tensor has one entry per row."""

    x: Tensor
    now: Tensor
    before: Tensor
    grad: Tensor
    value: Tensor
    best: Tensor
    best_grad: Tensor
    best_value: Tensor
    step_size: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    checked: Tensor  # best loss at the last checkpoint
    halved: Tensor  # whether the last checkpoint halved the step

    def __getitem__(self, rows: Tensor) -> "_Path":
        return _Path(*(tensor[rows] for tensor in vars(self).values()))


def _ascend(
    oracle: GradientOracle,
    x: Tensor,
    start: Tensor,
    goal: Goal,
    budget: Lp,
    loss: Loss,
    steps: int,
    tick: Tick,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the paper's algorithm 1: points (N, *S), their losses (N,), goal reached (N,) bool."""
    found, peak = start.clone(), x.new_full((len(x),), float("-inf"))
    won = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    path = _Path(
        x, now=start, before=start, grad=start, value=-peak, best=start, best_grad=start, best_value=peak,
        step_size=torch.full_like(peak, 2 * budget.eps), rises=torch.zeros_like(peak), checked=peak,
        halved=won.clone(),
    )  # fmt: skip
    times, last = checkpoints(steps), 0
    for step in range(steps):
        logits, value, grad = oracle.gradient(path.now, goal, loss)
        done = oracle.reached(goal, path.now, logits)
        found[rows[done]], won[rows[done]] = path.now[done], True
        rows, path, value, grad, oracle, goal = keep(~done, rows, path, value, grad, oracle, goal)
        if not len(rows):
            return found, peak, won
        _record(path, value, grad)
        if step in times:
            _review(path, step - last)
            last = step
        _move(path, budget, INERTIA if step else 0.0)
        tick(step + 1, steps, {"loss": value.mean().item(), "standing": len(rows)})
    logits = oracle.logits(path.now)
    value = goal.loss(logits, loss)
    won[rows] = oracle.reached(goal, path.now, logits)
    better = won[rows] | (value > path.best_value)
    found[rows] = torch.where(per_row(better, x), path.now, path.best)
    peak[rows] = value.maximum(path.best_value)
    return found, peak, won


def checkpoints(steps: int) -> list[int]:
    """List the steps at which step sizes are reviewed: ceil(p_j * steps) below `steps`.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), counted in hundredths so
    that 0.41 * 100 is 41.
    """
    times, p, gap = [], 22, 22
    while p < 100:
        times.append(-(-p * steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return sorted({time for time in times if time < steps})


def _record(path: _Path, value: Tensor, grad: Tensor) -> None:
    """Take down loss and gradient at the current points."""
    better = value > path.best_value
    path.rises = path.rises + (value > path.value)
    path.value, path.grad = value, grad
    path.best_value = torch.where(better, value, path.best_value)
    path.best = torch.where(per_row(better, grad), path.now, path.best)
    path.best_grad = torch.where(per_row(better, grad), grad, path.best_grad)
    # the first checkpoint compares with the start, f_max^(0) of the paper
    path.checked = torch.where(path.checked.isneginf(), value, path.checked)


def _review(path: _Path, elapsed: int) -> None:
    """Halve the step where progress stalls, and go on from the best point there."""
    few = path.rises < RISING * elapsed
    stuck = ~path.halved & (path.best_value <= path.checked)
    halve = few | stuck
    path.step_size = torch.where(halve, path.step_size / 2, path.step_size)
    path.value = torch.where(halve, path.best_value, path.value)
    path.now = torch.where(per_row(halve, path.now), path.best, path.now)
    path.grad = torch.where(per_row(halve, path.now), path.best_grad, path.grad)
    path.rises, path.checked, path.halved = torch.zeros_like(path.rises), path.best_value, halve


def _move(path: _Path, budget: Lp, inertia: float) -> None:
    """Take a gradient step, mixed with the last move."""
    step = per_row(path.step_size, path.now) * steepest(path.grad, budget.norm)
    aim = project(path.now + step, path.x, budget.norm, budget.eps)
    # now + (1 - inertia) * (aim - now) + inertia * (now - before), without temporaries
    mixed = aim.mul_(1 - inertia).add_(path.now, alpha=2 * inertia).sub_(path.before, alpha=inertia)
    path.before, path.now = path.now, project(mixed, path.x, budget.norm, budget.eps)
