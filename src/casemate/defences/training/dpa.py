"""Deep partition aggregation."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor, nn

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.recipe import Recipe
from casemate.core.registry import Paper, training
from casemate.core.target import Classifier
from casemate.core.tick import Tick, ignore
from casemate.ops.rng import generator, seeded

LEVINE = Paper(
    "Deep partition aggregation: provable defense against general poisoning attacks",
    "Levine, Feizi",
    2021,
    "https://arxiv.org/abs/2006.14768",
)
BATCH = 32  # rows a step: parts are small


@training(
    papers=(LEVINE,),
    known_as=("Deep Partition Aggregation", "DPA", "certified defence against poisoning"),
    against=("poisoning", "targeted"),
)
def dpa(recipe: Recipe, /, *, parts: Annotated[int, Ge(2)] = 50, longer: Annotated[int, Ge(1)] = 5) -> Recipe:
    """Train one net on each part of the data and let them vote; stands, with a certificate (`certify`).

    Which part a row belongs to depends on that row alone, by a hash of its content, so that a row added
    or removed changes one net and one vote. A class that leads by enough votes stays the answer whatever
    so few rows are. Nets that know a k-th of the data each are the price.

    Args:
        recipe: how each net is trained.
        parts: number of parts and nets, k; more certify more rows and cost accuracy.
        longer: how many times the recipe's epochs a part gets, since it is small; training takes about
            as many times longer.

    Returns:
        The recipe of a classifier whose scores are shares of the votes.

    Raises:
        UsageError: the recipe's training is in stages already.
    """
    if recipe.course is not None:
        raise UsageError("Only a recipe of one stage can be divided. Got one with a course of its own.")
    return replace(recipe, make=partial(_council, recipe.make, parts), course=Divided(parts, longer))


class Council(nn.Module):
    """Nets that vote: x (N, *S) -> shares of the votes (N, K).

    Their gradient is that of the mean probabilities, so that an attack has a slope to follow.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Vote on x."""
        votes, soft = [], []
        for member in self.members:
            logits = member(x)
            votes.append(nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits))
            soft.append(logits.softmax(1))
        # counts are exact, so that classes with as many votes tie and the first one is the answer
        shares, slope = torch.stack(votes).sum(0) / len(votes), torch.stack(soft).mean(0)
        return shares + (slope - slope.detach())


def _council(make: Callable[[], nn.Module], parts: int) -> Council:
    return Council([make() for _ in range(parts)])


@dataclass(frozen=True)
class Divided:
    """Trains each member of a council on the rows whose hash is its number, and on nothing else."""

    parts: int
    longer: int

    def __call__(
        self, recipe: Recipe, net: nn.Module, data: Samples, /, *, rng: Generator, tick: Tick = ignore
    ) -> None:
        """Train all members; a part of one row or none leaves its member as it was made."""
        assert isinstance(net, Council)
        # one draw, however many rows there are: no member may depend on the rows of another
        base, total, done = int(torch.randint(2**62, (), generator=rng)), 0, 0
        longer, shares = self._each(recipe), divide(data, self.parts)
        total = sum(longer.steps(len(rows)) for rows in shares if len(rows) > 1)
        for i, (member, rows) in enumerate(zip(net.members, shares, strict=True)):
            if len(rows) < 2:
                continue
            before = done
            with seeded(int(torch.randint(2**62, (), generator=generator(base, "layers", i))), data.x.device):
                longer.fit(
                    member, data[rows], rng=generator(base, "part", i),
                    tick=lambda step, _, values, before=before: tick(before + step, total, values),
                )  # fmt: skip
            done += longer.steps(len(rows))

    def _each(self, recipe: Recipe) -> Recipe:
        return replace(recipe, epochs=recipe.epochs * self.longer, batch=min(recipe.batch, BATCH))

    def steps(self, recipe: Recipe, n: int, /) -> int:
        """Count the steps of parts of equal size."""
        return self.parts * self._each(recipe).steps(max(2, n // self.parts))


def divide(data: Samples, parts: int) -> list[Tensor]:
    """Number the rows of each part, in an order that depends on their content only.

    The paper takes the sum of the pixels modulo k; a digest spreads any data evenly, also tables. Labels
    play no part in it, so that to relabel a row changes one net.
    """
    x = data.x.detach().cpu().contiguous()
    digests = [hashlib.sha256(row.numpy().tobytes()).digest() for row in x]
    found: list[list[int]] = [[] for _ in range(parts)]
    for i in sorted(range(len(data)), key=lambda i: (digests[i], int(data.y[i]))):
        found[int.from_bytes(digests[i], "big") % parts].append(i)
    return [torch.tensor(rows, dtype=torch.int64, device=data.y.device) for rows in found]


@dataclass(frozen=True)
class Certificate:
    """What a council answers n inputs: the class (n,), certain however `radius` (n,) training rows change.

    A row added or removed counts as one change, a row replaced as two (unless it stays in its part, as
    a row with another label does: then it is one).
    """

    label: Tensor
    radius: Tensor

    def holds(self, y: Tensor, radius: int) -> Tensor:
        """Tell which inputs certainly get class y (n,) up to a number of changes, (n,) bool."""
        return (self.label == y) & (self.radius >= radius)


def certify(model: Classifier, x: Tensor, /) -> Certificate:
    """Count the votes for each input and by how many changed votes the first class stays the first.

    With n1 votes for class a and n2 for b, r changes leave n1 - r and n2 + r at worst; a wins ties with
    classes behind it. Hence r = floor((n1 - max over b of (n2 + 1[b < a])) / 2).

    Args:
        model: classifier that `dpa` has trained.
        x: inputs (N, *S).

    Returns:
        Classes and radii, numbers of training rows.

    Raises:
        NotApplicable: the model is no council.
    """
    if not isinstance(model.net, Council):
        raise NotApplicable("only a model trained by training.dpa has votes to certify")
    shares = torch.cat([model.predict(part) for part in x.split(250)])
    return certificate((shares * len(model.net.members)).round().long())


def certificate(votes: Tensor) -> Certificate:
    """Certify votes (N, K), numbers of nets (see `certify`)."""
    label = votes.argmax(1)
    classes = torch.arange(votes.shape[1], device=votes.device)
    rivals = votes + (classes < label[:, None]).long()
    rivals.scatter_(1, label[:, None], -1)
    most = votes.gather(1, label[:, None]).squeeze(1)
    return Certificate(label, (most - rivals.amax(1)).div(2, rounding_mode="floor"))
