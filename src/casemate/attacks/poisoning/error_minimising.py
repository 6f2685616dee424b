"""Unlearnable examples: noise that leaves training nothing to learn from the inputs themselves."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn

from casemate.core.data import Poison, PoisonBudget
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from casemate.ops.gradients import value_and_grad
from casemate.ops.rng import batches, seeded

HUANG = Paper(
    "Unlearnable examples: making personal data unexploitable",
    "Huang, Ma, Erfani, Bailey, Wang",
    2021,
    "https://arxiv.org/abs/2101.04898",
)


@poisoning(
    papers=(HUANG,), known_as=("unlearnable examples", "error-minimising noise", "error-minimizing noise")
)
def error_minimising(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    eps: Annotated[float, Gt(0), Le(1)] = 8 / 255,
    rounds: Annotated[int, Ge(1)] = 20,
    inner_steps: Annotated[int, Ge(1)] = 10,
    steps: Annotated[int, Ge(1)] = 10,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Move training rows to where a half-trained model has least loss on their labels, which stay.

    The model and the noise go down together: some batches of training on moved rows, then sign-gradient
    steps of each row within linf `eps`, and so on. Trained on the rows, a victim learns the noise, which
    clean inputs lack. It takes all or most of the rows to work.

    Args:
        workshop: what the adversary knows; its recipe gives the net, its learning rate and its batches.
        budget: share of the rows that may change.
        eps: largest change of a value, in units of x.
        rounds: times that model and noise take turns.
        inner_steps: batches of training in each round.
        steps: sign-gradient steps of the noise in each round, each eps / 5 long.
        rng: source of the rows, of their first noise, of the first weights and of the batches.
        tick: called after each round with the mean loss on moved rows.

    Returns:
        The moved rows, with their labels as they were.

    Raises:
        NotApplicable: fewer than two classes.
    """
    clean = workshop.clean
    if clean.classes < 2:
        raise NotApplicable("poisoning.error_minimising needs two or more classes")
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    if not len(rows):
        return Poison(rows, clean.x[rows], clean.y[rows])
    x, y = clean.x[rows], clean.y[rows]
    with seeded(int(torch.randint(2**62, (), generator=rng)), x.device):
        net = workshop.recipe.make().to(x.device).eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=workshop.recipe.lr)
    moved = (x + (2 * torch.rand(x.shape, generator=rng).to(x) - 1) * eps).clamp(0, 1)
    for done in range(rounds):
        # layers with batch statistics keep their first ones; the net stays in evaluation mode
        for part in batches(len(rows), workshop.recipe.batch, inner_steps, rng):
            _train(net, optimizer, moved[part], y[part])
        for _ in range(steps):
            loss, grad = value_and_grad(
                lambda z: nn.functional.cross_entropy(net(z), y, reduction="none"), moved
            )
            moved = moved - eps / 5 * grad.sign()
            moved = torch.maximum(torch.minimum(moved, x + eps), x - eps).clamp(0, 1)
        tick(done + 1, rounds, {"loss": float(loss.mean())})
    return Poison(rows, moved, y)


def _train(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
    optimizer.step()
