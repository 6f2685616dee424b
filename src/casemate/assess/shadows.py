"""Whom a membership attacker is asked about, and the shadow models it may have trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from casemate.assess.bench import Bench
from casemate.assess.case import Case
from casemate.core.data import Samples, Shadow, World
from casemate.core.errors import NotApplicable
from casemate.core.target import Classifier, Ledger, Prepared, ScoreOracle
from casemate.core.tick import Tick
from casemate.ops.rng import generator, seed_of

CHUNK = 16  # training sets held in memory at once


@dataclass(frozen=True)
class Trial:
    """The game of one membership case.

    `scored` holds as many members as non-members in random order, `members` (N,) bool is the truth,
    which no attack sees, and `rows` (N,) are their places in the training or test data.
    `population` is all other data, in random order; `copies` counts the test rows left out because
    the training data holds the same input.
    """

    scored: Samples
    members: Tensor
    rows: Tensor
    population: Samples
    training_rows: int
    copies: int


def draw_trial(train: Samples, test: Samples, rows: int, seed: int) -> Trial:
    """Draw `rows` members and as many non-members, fewer where the data has fewer."""
    unseen = _not_in(test.x, train.x)
    r = min(rows, len(train), len(unseen))
    inside = torch.randperm(len(train), generator=generator(seed, "membership", "train"))
    outside = unseen[torch.randperm(len(unseen), generator=generator(seed, "membership", "test"))]
    order = torch.randperm(2 * r, generator=generator(seed, "membership", "order"))
    scored = _join(train[inside[:r]], test[outside[:r]])
    rest = _join(train[inside[r:]], test[outside[r:]])
    return Trial(
        scored=scored[order],
        members=order < r,
        rows=torch.cat([inside[:r], outside[:r]])[order],
        population=rest[torch.randperm(len(rest), generator=generator(seed, "membership", "rest"))],
        training_rows=len(train),
        copies=len(test) - len(unseen),
    )


def _not_in(test: Tensor, train: Tensor) -> Tensor:
    """Find the test rows whose input is no exact copy of a training row's."""
    seen = {row.tobytes() for row in train.cpu().numpy()}
    kept = [i for i, row in enumerate(test.cpu().numpy()) if row.tobytes() not in seen]
    return torch.tensor(kept, dtype=torch.int64)


def _join(a: Samples, b: Samples) -> Samples:
    return Samples(torch.cat([a.x, b.x]), torch.cat([a.y, b.y]), a.classes, a.names)


def shadow_set(trial: Trial, seed: int, index: int) -> tuple[Samples, Tensor]:
    """Choose the training set of one shadow: its rows, and which scored rows are among them (N,) bool.

    Shadows 2p and 2p + 1 get complementary halves of the scored rows, so that each row is IN half
    of any even number of shadows. Other rows fill the set up to the size of the target's; most of
    them are the target's own training rows, as for an adversary who knows nearly all of the data
    but not whether the scored rows are in it. The target is then itself a draw of this kind.
    """
    n = len(trial.scored)
    order = torch.randperm(n, generator=generator(seed, "shadow", "half", index // 2))
    chosen = order[: n // 2] if index % 2 == 0 else order[n // 2 :]
    members = torch.zeros(n, dtype=torch.bool)
    members[chosen] = True
    wanted = max(0, trial.training_rows - len(chosen))
    others = torch.randperm(len(trial.population), generator=generator(seed, "shadow", "rest", index))
    return _join(trial.scored[members], trial.population[others[:wanted]]), members


def make_world(trial: Trial, case: Case, bench: Bench, tick: Tick) -> World:
    """Give an attacker its data and, on request, shadow models, which the cases of a run share."""

    def shadows(k: int) -> Sequence[Shadow]:
        if bench.recipe is None:
            raise NotApplicable(
                f"{case.method} trains shadow models, which needs a training recipe; none was given"
            )
        models = _trained(trial, case, bench, k, tick)
        n = len(trial.scored)
        return [
            Shadow(ScoreOracle(Prepared(model), Ledger.empty(n)), shadow_set(trial, case.seed, i)[1])
            for i, model in enumerate(models)
        ]

    return World(trial.population, shadows)


def _trained(trial: Trial, case: Case, bench: Bench, k: int, tick: Tick) -> list[Classifier]:
    assert bench.recipe is not None
    kind = f"shadow {bench.recipe.digest()} {case.data} {case.seed} {len(trial.scored)}"
    missing = [i for i in range(k) if f"{kind} {i}" not in bench.cache]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        jobs = [
            (bench.recipe, shadow_set(trial, case.seed, i)[0], seed_of(case.seed, "shadow", i)) for i in part
        ]
        trained = bench.train_many(jobs, tick=_part_of(tick, start, len(part), len(missing)))
        for i, model in zip(part, trained, strict=True):
            bench.cache[f"{kind} {i}"] = replace(model, device=bench.target.device)
    return [bench.cache[f"{kind} {i}"] for i in range(k)]


def _part_of(tick: Tick, done: int, now: int, total: int) -> Tick:
    """Report the progress of some of `total` trainings as progress of them all."""

    def report(step: int, steps: int, values: Mapping[str, float], /) -> None:
        tick(round(1000 * (done + now * step / max(1, steps))), 1000 * total, values)

    return report
