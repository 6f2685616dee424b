"""The Square attack: random search by windows, from the model's scores alone."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from casemate.core.registry import Cost, Paper, evasion
from casemate.core.target import ScoreOracle
from casemate.core.threat import Goal, Lp
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import nonzero
from casemate.ops.rng import RowGenerator
from casemate.ops.rows import keep

ANDRIUSHCHENKO = Paper(
    "Square attack: a query-efficient black-box adversarial attack via random search",
    "Andriushchenko, Croce, Flammarion, Hein",
    2020,
    "https://arxiv.org/abs/1912.00049",
)
# of 10,000 steps, those after which the windows' area is halved; the authors' code adds 500
HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # bumps along each side of the l2 start

# step, rows, current and clean values (N, C, P) -> places (N, C, n) and the values to try there
Propose = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Sides = list[tuple[int, int]]  # height and width of each step's window


@evasion(
    norms=("linf", "l2"),
    papers=(ANDRIUSHCHENKO,),
    known_as=("Square Attack",),
    cost=lambda params, classes: Cost(queries=params.queries),
)
def square(
    oracle: ScoreOracle,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    /,
    *,
    queries: Annotated[int, Ge(1)] = 5000,
    p_init: Annotated[float, Gt(0), Le(1)] = 0.8,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Change one random window at a time and keep what brings the goal nearer.

    In linf a window's values move to one end of their range, per channel, and the search starts
    from vertical stripes. In l2 a window takes the size that another one gives up. The windows
    shrink on the paper's schedule, stretched or shortened to the queries allowed. A row that
    reaches the goal leaves at once. Tables are searched by intervals of their columns.

    Args:
        oracle: access to the target's scores.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: ball around `x` that the result stays in; its limit of queries applies as well.
        queries: questions per row, the one about `x` itself included.
        p_init: share of the values in the first windows, in (0, 1].
        rng: source of starts, windows and signs, one stream per row.
        tick: called after each step with the mean margin and the number of rows that still stand.

    Returns:
        For each row the point (N, *S) that reaches the goal, else that of the largest margin, in
        the ball and in [0, 1].
    """
    steps = (queries if budget.queries is None else min(queries, budget.queries)) - 1
    x = x.detach()
    result, rows = x.clone(), torch.arange(len(x), device=x.device)
    # the paper's loss for targets is cross-entropy; the margin rises with it and does not saturate
    best, done = _judge(oracle, goal, x)
    shape = _picture(x.shape[1:])
    propose = _moves(budget, x, shape, _sides(steps, p_init, shape, budget), rng)
    clean = x.reshape(len(x), shape[0], shape[1] * shape[2])
    now, best = clean.clone(), torch.full_like(best, float("-inf"))
    for step in range(steps):
        rows, now, clean, best, oracle, goal = keep(~done, rows, now, clean, best, oracle, goal)
        if not len(rows):
            return result
        places, values = propose(step, rows, now, clean)
        before = now.gather(2, places)
        now.scatter_(2, places, values)
        value, done = _judge(oracle, goal, now.view(len(now), *x.shape[1:]))
        better = done | (value > best)
        now.scatter_(2, places, torch.where(better[:, None, None], values, before))
        best = torch.where(better, value, best)
        if bool(done.any()):
            result[rows[done]] = now.view(len(now), *x.shape[1:])[done]
        tick(step + 1, steps, {"margin": best.mean().item(), "standing": len(rows)})
    result[rows] = now.view(len(now), *x.shape[1:])
    return result


def _judge(oracle: ScoreOracle, goal: Goal, x: Tensor) -> tuple[Tensor, Tensor]:
    """Margins (N,), minus infinity where the model gives no number, and which rows are done."""
    logits = oracle.logits(x)
    value = goal.loss(logits, "margin")
    return torch.where(value.isfinite(), value, float("-inf")), goal.reached(logits)


def _picture(shape: torch.Size) -> tuple[int, int, int]:
    """Read an input's shape as channels, height and width; tables are pictures of one line."""
    match tuple(shape):
        case (columns,):
            return 1, 1, columns
        case (height, width):
            return 1, height, width
        case (channels, *heights, width):
            return channels, torch.Size(heights).numel(), width
    raise AssertionError("inputs have at least one dimension")


def _sides(steps: int, p_init: float, shape: tuple[int, int, int], budget: Lp) -> Sides:
    """Height and width of the window at each step after the first, which sets the start."""
    _, height, width = shape
    sides = []
    for step in range(steps - 1):
        p = p_init / 2 ** bisect_left(HALVINGS, step * 10_000 // steps)
        area = p * height * width
        side = max(1, round(area**0.5))
        if budget.norm == "l2":
            side = max(3, side + 1 - side % 2)  # odd, as the authors' code has it
        h, w = min(side, height), min(side, width)
        # in a low or narrow picture a window is as much longer as it must be flatter
        if side >= height < width:
            w = min(width, max(1, round(area / height)))
        elif side >= width < height:
            h = min(height, max(1, round(area / width)))
        sides.append((h, w))
    return sides


def _moves(budget: Lp, x: Tensor, shape: tuple[int, int, int], sides: Sides, rng: RowGenerator) -> Propose:
    match budget.norm:
        case "linf":
            return _ends(budget.radius, x, shape, sides, rng)
        case "l2":
            return _exchanges(budget.radius, x, shape, sides, rng)
    raise AssertionError(f"evasion.square has no windows for {budget.norm}")


def _ends(eps: float, x: Tensor, shape: tuple[int, int, int], sides: Sides, rng: RowGenerator) -> Propose:
    """Windows that go to x + eps or x - eps, one sign per channel; the start is vertical stripes."""
    channels, height, width = shape
    stripes = rng.sign(channels, 1, width).expand(-1, -1, height, -1).flatten(2).to(x)
    draws = rng.uniform(len(sides), 2 + channels).transpose(0, 1)
    corners = _corners(draws[..., :2], sides, height, width).to(x.device)
    signs = torch.where(draws[..., 2:] < 0.5, -1.0, 1.0).to(x)
    everywhere = torch.arange(height * width, device=x.device)
    grids = {side: _grid(side, width).to(x.device) for side in sides}

    def propose(step: int, rows: Tensor, now: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        if step == 0:
            places, sign = everywhere.expand_as(clean), stripes[rows]
        else:
            places = corners[step - 1, rows, None] + grids[sides[step - 1]]
            places = places[:, None].expand(-1, channels, -1)
            sign = signs[step - 1, rows, :, None]
        return places, (clean.gather(2, places) + eps * sign).clamp(0, 1)

    return propose


def _exchanges(
    eps: float, x: Tensor, shape: tuple[int, int, int], sides: Sides, rng: RowGenerator
) -> Propose:
    """Pairs of windows: the second goes back to x, the first gets its size and what is unspent."""
    channels, height, width = shape
    start = _tiled(rng, shape).to(x)
    draws = rng.uniform(len(sides), 5 + channels).transpose(0, 1)
    firsts = _corners(draws[..., :2], sides, height, width).to(x.device)
    seconds = _corners(draws[..., 2:4], sides, height, width).to(x.device)
    turns = (draws[..., 4] < 0.5).long().to(x.device)
    signs = torch.where(draws[..., 5:] < 0.5, -1.0, 1.0).to(x)
    everywhere = torch.arange(height * width, device=x.device)
    grids = {side: _grid(side, width).to(x.device) for side in sides}
    bumps = {side: torch.stack([_bump(side, 0), _bump(side, 1)]).flatten(1).to(x) for side in sides}

    def propose(step: int, rows: Tensor, now: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        if step == 0:
            return everywhere.expand_as(clean), (clean + eps * start[rows]).clamp(0, 1)
        side = sides[step - 1]
        first, second = (c[step - 1, rows, None] + grids[side] for c in (firsts, seconds))
        down = second // width - first[:, :1] // width
        right = second % width - first[:, :1] % width
        shared = ((down >= 0) & (down < side[0]) & (right >= 0) & (right < side[1]))[:, None]
        twin = (down * side[1] + right).clamp(0, first.shape[1] - 1)
        first, second, twin = (p[:, None].expand(-1, channels, -1) for p in (first, second, twin))
        old = now.gather(2, first) - clean.gather(2, first)
        given = torch.where(shared, 0, now.gather(2, second) - clean.gather(2, second))
        unspent = (eps**2 - (now - clean).flatten(1).square().sum(1)).clamp(min=0) / channels
        length = (old.square().sum(2) + given.square().sum(2) + unspent[:, None]).sqrt()
        bump = bumps[side][turns[step - 1, rows], None] * signs[step - 1, rows, :, None]
        new = (clean.gather(2, first) + length[..., None] * _unit(bump + _unit(old))).clamp(0, 1)
        back = torch.where(shared, new.gather(2, twin), clean.gather(2, second))
        return torch.cat([first, second], 2), torch.cat([new, back], 2)

    return propose


def _corners(draws: Tensor, sides: Sides, height: int, width: int) -> Tensor:
    """Turn uniform numbers (T, N, 2) into the places (T, N) of windows' upper left corners."""
    most = torch.tensor([[height - h, width - w] for h, w in sides], dtype=torch.int64).view(-1, 1, 2)
    # a product with a number just below 1 may be rounded up to the limit
    corner = (draws * (most + 1)).long().minimum(most)
    return corner[..., 0] * width + corner[..., 1]


def _grid(side: tuple[int, int], width: int) -> Tensor:
    """Places of a window relative to its upper left corner, (n,)."""
    return (torch.arange(side[0])[:, None] * width + torch.arange(side[1])).flatten()


def _bump(side: tuple[int, int], axis: int) -> Tensor:
    """The paper's eta: a hill and a hollow of l2 size 1 side by side along an axis, (h, w)."""
    h, w = side
    if (axis == 0 and h > 1) or w == 1:
        halves = [_pyramid(h // 2, w), -_pyramid(h - h // 2, w)] if h > 1 else [_pyramid(h, w)]
        return _unit(torch.cat(halves, 0).flatten()).view(h, w)
    return _bump((w, h), 0).t()


def _pyramid(height: int, width: int) -> Tensor:
    """Concentric rings: the one d places from the middle is the sum of 1 / k^2 over k > d."""
    down = (torch.arange(height) - height // 2).abs()[:, None]
    right = (torch.arange(width) - width // 2).abs()
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2).square()
    rings = terms.flip(0).cumsum(0).flip(0)[torch.maximum(down, right)]
    return _unit(rings.flatten()).view(height, width)


def _tiled(rng: RowGenerator, shape: tuple[int, int, int]) -> Tensor:
    """The l2 start: bumps of random signs in a grid over the picture, of l2 size 1, (N, C, P)."""
    channels, height, width = shape
    h, w = max(1, height // TILES), max(1, width // TILES)
    down, right = height // h, width // w
    signs = rng.sign(channels, down, right).repeat_interleave(h, 2).repeat_interleave(w, 3)
    start = torch.zeros(len(rng), channels, height, width)
    top, left = (height - down * h) // 2, (width - right * w) // 2
    start[..., top : top + down * h, left : left + right * w] = signs * _bump((h, w), 0).repeat(down, right)
    flat = start.flatten(1)
    return _unit(flat).view(len(rng), channels, height * width)


def _unit(values: Tensor) -> Tensor:
    """Scale to l2 size 1 along the last dimension; zeros stay."""
    return values / nonzero(values.norm(dim=-1, keepdim=True))
