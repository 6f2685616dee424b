"""Semantic adversarial examples: the same thing with other attributes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, semantic
from casemate.core.semantic import Attributes, Latent, SemanticBudget
from casemate.core.spaces import Space, space_of
from casemate.core.target import GradientOracle
from casemate.core.threat import Goal
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import RowGenerator

JOSHI = Paper(
    "Semantic adversarial attacks: parametric transformations that fool deep classifiers",
    "Joshi, Mukherjee, Sarkar, Hegde",
    2019,
    "https://arxiv.org/abs/1904.08489",
)


@semantic(papers=(JOSHI,), known_as=("Semantic adversarial attack", "SemanticAdversary", "semantic attack"))
def attributes(
    oracle: GradientOracle,
    x: Tensor,
    goal: Goal,
    budget: SemanticBudget,
    /,
    *,
    mode: Literal["single", "multi", "sequential"] = "multi",
    steps: Annotated[int, Ge(1)] = 250,
    step_size: Annotated[float, Gt(0)] = 0.1,
    rng: RowGenerator,
    tick: Tick = ignore,
) -> Tensor:
    """Climb the margin by changing attributes of what is shown, through a renderer or a decoder.

    `multi` changes all attributes at once; `single` tries each alone, from the input as it is, and
    `sequential` one after the other, each from where the last ended. All three take `steps` steps.

    Args:
        oracle: white-box access to the target.
        x: clean inputs (N, *S), each value in [0, 1].
        goal: what the adversary wants of each row.
        budget: attributes and their limits, or a generator, each value of whose codes is an attribute.
        mode: which attributes are changed at a time.
        steps: number of Adam's steps in all; one query each for as long as a row stands.
        step_size: Adam's learning rate, in units of each attribute's limit.
        rng: unused; the method draws no random numbers.
        tick: called after each step with the mean margin.

    Returns:
        Codes (N, A): for each row the first that succeeds, else the last ones.

    Raises:
        NotApplicable: the budget has no attributes.
    """
    if not isinstance(budget, Attributes | Latent):
        raise NotApplicable("semantic.attributes needs a budget of attributes or a latent one")
    space = space_of(budget, x, goal)
    most = steps if budget.queries is None else min(steps, budget.queries)
    match mode:
        case "multi":
            parts: tuple[slice, ...] = (slice(None),)
        case "single" | "sequential":
            parts = space.groups
        case _:
            assert_never(mode)
    result, done, taken = space.start.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device), 0
    for i, columns in enumerate(parts):
        count = most * (i + 1) // len(parts) - most * i // len(parts)
        rows = (~done).nonzero().flatten()
        first = space.start[rows] if mode == "single" else result[rows]
        climbing = _Climb(oracle[rows], space[rows], goal[rows], columns, step_size)
        for codes, reached, margin in climbing.points(first, count):
            result[rows], done[rows] = codes, reached
            taken += 1
            tick(taken, most, {"margin": margin} if len(rows) else {})
    return result


@dataclass(frozen=True)
class _Climb:
    """Some columns of the codes, changed by Adam on the C&W margin."""

    oracle: GradientOracle
    space: Space
    goal: Goal
    columns: slice
    step_size: float

    def points(self, first: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Visit codes: the codes themselves, which rows stand at a success, and the mean margin there."""
        space, scale = self.space, self.space.scale[self.columns]
        codes, done = first.clone(), torch.zeros(len(first), dtype=torch.bool, device=first.device)
        mean, square = torch.zeros_like(codes[:, self.columns]), torch.zeros_like(codes[:, self.columns])
        for step in range(1, count + 1):
            point = codes.detach().requires_grad_()
            with torch.enable_grad():
                made = space.decode(point)
                logits = self.oracle.graph(made)
                # the paper's loss is cut off at 0, where its search stops; so does this one
                margin = self.goal.loss(logits, "margin")
                (grad,) = torch.autograd.grad(margin.sum(), point)
            done = done | self.oracle.reached(self.goal, made.detach(), logits.detach())
            yield codes, done, margin.mean().item() if len(codes) else 0.0
            slope = grad[:, self.columns] * scale
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope.square()
            root = (square / (1 - 0.999**step)).sqrt()
            move = mean / (1 - 0.9**step) / torch.where(root == 0, 1, root)
            moved = codes.clone()
            moved[:, self.columns] += self.step_size * scale * move
            codes = torch.where(done[:, None], codes, space.clip(moved))
