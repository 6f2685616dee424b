"""Auto-PGD for the l1 ball: sparse steps whose sparsity and length adapt themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal, Loss, Lp, NeverReached, directions
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import inward, nonzero, per_row, project
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

CROCE = Paper(
    "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers",
    "Croce, Hein",
    2021,
    "https://arxiv.org/abs/2103.01208",
)
RADII = (3, 2, 1)  # in units of eps: from a larger ball into the one that counts
SPARSER = 1.5  # a step changes this many times fewer values than the best point does
SHORTER = 1.5  # factor by which steps shrink while the sparsity stays
SHORTEST = 0.1  # of the radius


@evasion(
    norms=("l1",),
    papers=(CROCE,),
    known_as=("l1-APGD", "APGD-L1", "Mind the box"),
    cost=lambda params, classes: Cost(queries=_queries(params.steps), gradients=params.steps),
)
def apgd_l1(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    steps: Annotated[int, Ge(1)] = 100,
    loss: Loss = "ce",
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the goal's loss in the l1 ball by sparse steps, coming in from larger balls.

    Starts in the ball of radius 3 * eps, goes on in that of 2 * eps from the projection of the best
    point, and ends in that of eps, where a row that reaches the goal leaves at once. A step moves
    the values with the largest gradients, two thirds as many as the best point has changed; while
    that number stays, steps get shorter.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps in all: 30, 30 and 40 % in the three balls.
        loss: surrogate to climb; `ce` is the log-odds of error, which has the direction of
            cross-entropy and does not saturate.
        rng: source of the random start, one stream per row.
        tick: called after each step with the mean loss and the number of rows that still stand.

    Returns:
        For each row the point (N, *S) that reaches the goal, else that of highest loss, in the
        ball and in [0, 1].
    """
    return _climb(oracle, x, [goal], budget, loss, steps, rng, tick)


@evasion(
    norms=("l1",),
    papers=(CROCE,),
    known_as=("l1-APGD-T", "APGD-T L1", "targeted l1-APGD"),
    cost=lambda params, classes: Cost(
        queries=1 + min(params.targets, classes - 1) * _queries(params.steps),
        gradients=min(params.targets, classes - 1) * params.steps,
    ),
)
def apgd_l1_t(
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
    """Run l1-APGD towards one class after another, the likeliest first.

    Climbs the targeted difference of logits ratio. One forward pass on `x` ranks the classes. A
    goal that names a class is pursued by that class alone, at the cost of one target.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in.
        steps: number of gradient steps towards each class: 30, 30 and 40 % in the three balls.
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


def phases(steps: int) -> list[int]:
    """Share steps out among the balls: 30, 30 and 40 %; few steps all go to the last ball."""
    early = min(-(-3 * steps // 10), (steps - 1) // 2)
    return [early, early, steps - 2 * early]


def _queries(steps: int) -> int:
    """Count forward passes: one per step, and one for the last point in each ball that has steps."""
    return steps + sum(count > 0 for count in phases(steps))


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
    for run, whole in enumerate(goals):
        if not len(rows):
            break
        goal, taken = whole[rows], 0
        best = x + rng.normal(*x.shape[1:]).to(x)
        for radius, count in zip(RADII, phases(steps), strict=True):
            if not count:
                continue

            def told(
                step: int, _: int, values: Mapping[str, float], /, before: int = run * steps + taken
            ) -> None:
                tick(before + step, len(goals) * steps, values)

            eps = radius * budget.radius
            wish = goal if radius == 1 else NeverReached(goal)
            best, value, done = _ascend(oracle, x, project(best, x, "l1", eps), wish, eps, loss, count, told)
            taken += count
        better = done | (value > top[rows])
        result[rows[better]], top[rows[better]] = best[better], value[better]
        rows, x, oracle, rng = keep(~done, rows, x, oracle, rng)
    return result


@dataclass
class _Path:
    """Where each row's ascent is; every tensor has one entry per row."""

    x: Tensor
    now: Tensor
    grad: Tensor
    best: Tensor
    best_grad: Tensor
    best_value: Tensor
    step_size: Tensor
    changed: Tensor  # values in which the best point differed from x at the last review

    def __getitem__(self, rows: Tensor) -> "_Path":
        return _Path(*(tensor[rows] for tensor in vars(self).values()))


def _ascend(
    oracle: GradientOracle,
    x: Tensor,
    start: Tensor,
    goal: Goal,
    eps: float,
    loss: Loss,
    steps: int,
    tick: Tick,
) -> tuple[Tensor, Tensor, Tensor]:
    """Climb in one ball: points (N, *S), their losses (N,), goal reached (N,) bool."""
    found, peak = start.clone(), x.new_full((len(x),), float("-inf"))
    won = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    path = _Path(x, start, start, start, start, peak, torch.full_like(peak, eps), _changed(start, x))
    every = max(1, steps * 4 // 100)  # as in the authors' code; the paper rounds up
    for step in range(steps):
        logits, value, grad = oracle.gradient(path.now, goal, loss)
        done = oracle.reached(goal, path.now, logits)
        found[rows[done]], won[rows[done]] = path.now[done], True
        rows, path, value, grad, oracle, goal = keep(~done, rows, path, value, grad, oracle, goal)
        if not len(rows):
            return found, peak, won
        _record(path, value, grad)
        if step and step % every == 0:
            _review(path, eps)
        path.now = project(path.now + _sparse_step(path), path.x, "l1", eps)
        tick(step + 1, steps, {"loss": value.mean().item(), "standing": len(rows)})
    logits = oracle.logits(path.now)
    value = goal.loss(logits, loss)
    won[rows] = oracle.reached(goal, path.now, logits)
    better = won[rows] | (value > path.best_value)
    found[rows] = torch.where(per_row(better, x), path.now, path.best)
    peak[rows] = value.maximum(path.best_value)
    return found, peak, won


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    """Count the values that differ by more than the rounding of a projection leaves, (N,)."""
    return ((x_adv - x).abs() > torch.finfo(x.dtype).eps).flatten(1).sum(1).to(x.dtype)


def _record(path: _Path, value: Tensor, grad: Tensor) -> None:
    """Take down loss and gradient at the current points."""
    better = value > path.best_value
    path.grad = grad
    path.best_value = torch.where(better, value, path.best_value)
    path.best = torch.where(per_row(better, grad), path.now, path.best)
    path.best_grad = torch.where(per_row(better, grad), grad, path.best_grad)


def _review(path: _Path, eps: float) -> None:
    """Start afresh from the best point where it got sparser, else take shorter steps."""
    changed = _changed(path.best, path.x)
    sparser = changed < 0.95 * path.changed
    path.step_size = torch.where(sparser, eps, (path.step_size / SHORTER).clamp(min=SHORTEST * eps))
    path.now = torch.where(per_row(sparser, path.now), path.best, path.now)
    path.grad = torch.where(per_row(sparser, path.now), path.best_grad, path.grad)
    path.changed = changed


def _sparse_step(path: _Path) -> Tensor:
    """Spread the step evenly over the values with the largest gradients, two thirds of the changed."""
    # the paper ranks all gradients; leaving out values that an edge holds back fools more rows
    flat = inward(path.grad, path.now).flatten(1).nan_to_num(0, 0, 0)
    count = (path.changed / SPARSER).ceil().clamp(1, flat.shape[1]).long()
    ranked = flat.abs().topk(int(count.max()), 1).values
    signs = flat.sign() * (flat.abs() >= ranked.gather(1, count[:, None] - 1))
    signs = signs / nonzero(signs.abs().sum(1, keepdim=True))
    return per_row(path.step_size, path.now) * signs.view_as(path.now)
