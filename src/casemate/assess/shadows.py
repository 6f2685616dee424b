"""Whom a membership attacker is asked about, and the shadow models it may have trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.core.data import Samples, Shadow, World
from casemate.core.errors import NotApplicable
from casemate.core.recipe import Recipe
from casemate.core.target import Classifier, Ledger, Prepared, ScoreOracle
from casemate.core.tick import Tick
from casemate.core.workers import Selection
from casemate.ops.rng import generator, seed_of


@dataclass(frozen=True)
class Trial:
    """The game of one membership case.

    The first rows of `pool` are scored: as many members as non-members, in random order; the others
    are all other data, in random order. `members` (N,) bool is the truth about the scored rows, which
    no attack sees, and `rows` (N,) are their places in the training or test data. `copies` counts the
    test rows left out because the training data holds the same input.
    """

    pool: Samples
    members: Tensor
    rows: Tensor
    training_rows: int
    copies: int

    @property
    def scored(self) -> Samples:
        """Rows that the attack is asked about, N."""
        return self.pool[: len(self.members)]

    @property
    def population(self) -> Samples:
        """Rows that it is not asked about."""
        return self.pool[len(self.members) :]


def draw_trial(train: Samples, test: Samples, rows: int, seed: int) -> Trial:
    """Draw `rows` members and as many non-members, fewer where the data has fewer."""
    unseen = _not_in(test.x, train.x)
    r = min(rows, len(train), len(unseen))
    inside = torch.randperm(len(train), generator=generator(seed, "membership", "train"))
    outside = unseen[torch.randperm(len(unseen), generator=generator(seed, "membership", "test"))]
    order = torch.randperm(2 * r, generator=generator(seed, "membership", "order"))
    places = torch.cat([inside[:r], outside[:r]])[order]
    every = torch.cat([inside[:r], len(train) + outside[:r]])[order]
    rest = torch.cat([inside[r:], len(train) + outside[r:]])
    rest = rest[torch.randperm(len(rest), generator=generator(seed, "membership", "rest"))]
    both = Samples(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), train.classes, train.names)
    return Trial(both[torch.cat([every, rest])], order < r, places, len(train), len(test) - len(unseen))


def _not_in(test: Tensor, train: Tensor) -> Tensor:
    """Find the test rows whose input is no exact copy of a training row's."""
    seen = {row.tobytes() for row in train.cpu().numpy()}
    kept = [i for i, row in enumerate(test.cpu().numpy()) if row.tobytes() not in seen]
    return torch.tensor(kept, dtype=torch.int64)


def shadow_set(trial: Trial, seed: int, index: int) -> tuple[Selection, Tensor]:
    """Choose the training set of one shadow: its rows, and which scored rows are among them (N,) bool.

    Shadows 2p and 2p + 1 get complementary halves of the scored rows, so that each row is IN half
    of any even number of shadows. Other rows fill the set up to the size of the target's; most of
    them are the target's own training rows, as for an adversary who knows nearly all of the data
    but not whether the scored rows are in it. The target is then itself a draw of this kind.
    """
    n = len(trial.members)
    order = torch.randperm(n, generator=generator(seed, "shadow", "half", index // 2))
    chosen = order[: n // 2] if index % 2 == 0 else order[n // 2 :]
    members = torch.zeros(n, dtype=torch.bool)
    members[chosen] = True
    wanted = max(0, trial.training_rows - len(chosen))
    others = torch.randperm(len(trial.pool) - n, generator=generator(seed, "shadow", "rest", index))[:wanted]
    return Selection(trial.pool, torch.cat([chosen, n + others])), members


def make_world(trial: Trial, case: Case, bench: Bench, tick: Tick) -> World:
    """Give an attacker its data and, on request, shadow models, which the cases of a run share."""

    def shadows(k: int) -> Sequence[Shadow]:
        if bench.recipe is None:
            raise NotApplicable(
                f"{case.method} trains shadow models, which needs a training recipe; none was given"
            )
        models = _trained(bench.recipe, trial, case, bench, k, tick)
        n = len(trial.members)
        return [
            Shadow(ScoreOracle(Prepared(model), Ledger.empty(n)), shadow_set(trial, case.seed, i)[1])
            for i, model in enumerate(models)
        ]

    return World(trial.population, shadows)


def _trained(recipe: Recipe, trial: Trial, case: Case, bench: Bench, k: int, tick: Tick) -> list[Classifier]:
    kind = f"shadow {recipe.digest()} {case.data} {case.seed} {len(trial.members)}"
    missing = [i for i in range(k) if f"{kind} {i}" not in bench.cache]
    jobs = [(recipe, shadow_set(trial, case.seed, i)[0], seed_of(case.seed, "shadow", i)) for i in missing]
    for i, model in zip(missing, bench.train_many(jobs, tick=tick) if jobs else (), strict=True):
        bench.cache[f"{kind} {i}"] = replace(model, device=bench.target.device)
    return [bench.cache[f"{kind} {i}"] for i in range(k)]
