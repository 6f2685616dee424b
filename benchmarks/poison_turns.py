"""Poisons and screenings that take turns, and one judge: fresh victims trained by our recipe."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from casemate.assess.families.targeted import fit_heads, in_budget
from casemate.core.data import Poison, Samples
from casemate.core.features import Halves
from casemate.core.recipe import Recipe
from casemate.core.tampering import Tampering
from casemate.core.target import Classifier
from casemate.core.workshop import Aims
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate, share


@dataclass(frozen=True)
class Task:
    """What everybody poisons or screens in one turn.

    `model` is what a poisoner knows, or what was trained on the rows that are screened. `count` rows
    change by `eps` at most, in units of x, in `steps` steps. Targeted poisons have `aims`; their victims
    are heads on the `extractor` where there is one. Other poisons have a `mark` that shall call up class
    1, and that is not `hidden` where training rows show it. `planted` (N,) bool are the rows that a screening should find.
    """

    recipe: Recipe
    clean: Samples
    test: Samples
    model: Classifier
    count: int
    eps: float
    steps: int
    aims: Aims | None = None
    extractor: Halves | None = None
    mark: Callable[[Tensor], Tensor] | None = None
    hidden: bool = True
    planted: Tensor | None = None
    seed: int = 0

    @property
    def wanted(self) -> Aims:
        """The aims of a targeted task."""
        assert self.aims is not None
        return self.aims


@dataclass(frozen=True)
class Counts:
    """What one turn came to: `hits` of `tries`, and at which price, `harm` of `clean` rows."""

    hits: int
    tries: int
    harm: int
    clean: int


# a list of poisons, one per aim (a single one where there are no aims), or the rows to keep (N,) bool;
# raises ImportError where the library is missing
Run = Callable[[Task], Any]
Judge = Callable[[Task, Any], Counts]


@dataclass(frozen=True)
class Entrant:
    """One library's method; a `baseline` is judged and not timed, and what is `ours` is no rival."""

    name: str
    run: Run
    baseline: bool = False
    ours: bool = False


@dataclass
class Score:
    """What an entrant needed, the least of its turns, and what all of its turns came to."""

    name: str
    baseline: bool = False
    ours: bool = False
    seconds: float = math.inf
    counts: list[Counts] = field(default_factory=list)
    skipped: str = ""

    @property
    def success(self) -> Estimate:
        """Share of the aims, of the marked test rows or of the planted rows."""
        return share(sum(c.hits for c in self.counts), sum(c.tries for c in self.counts))

    @property
    def harm(self) -> Estimate:
        """Share of the clean rows that victims get wrong, or that a screening drops."""
        return share(sum(c.harm for c in self.counts), sum(c.clean for c in self.counts))


@dataclass(frozen=True)
class Round:
    """One contest: what is judged, and how."""

    title: str
    per: int  # aims of one turn, by which its seconds are divided
    success: str
    harm: str
    scores: list[Score]
    screens: bool = False

    @property
    def own(self) -> Score:
        """Our score."""
        return self.scores[0]

    @property
    def rivals(self) -> list[Score]:
        """Scores of the peers that ran."""
        return [s for s in self.scores[1:] if not (s.skipped or s.baseline or s.ours)]


def hold(tasks: Sequence[Task], entrants: Sequence[Entrant], judge: Judge) -> list[Score]:
    """Let entrants take turns, a task each time, in another order each time; the least process CPU counts."""
    scores = [Score(entrant.name, entrant.baseline, entrant.ours) for entrant in entrants]
    for turn, task in enumerate(tasks):
        for i in range(len(entrants)):
            which = (i + turn) % len(entrants)
            if not scores[which].skipped:
                _turn(entrants[which], task, scores[which], judge)
    return scores


def _turn(entrant: Entrant, task: Task, score: Score, judge: Judge) -> None:
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)  # noqa: NPY002 - what peers draw from
    try:
        start = time.process_time()
        result = entrant.run(task)
        seconds = time.process_time() - start
    except ImportError as error:
        score.skipped = f"not importable: {error}"
        return
    except Exception as error:
        if not entrant.name.startswith("ART"):
            raise
        score.skipped = f"broke down: {type(error).__name__}: {error}"
        return
    score.seconds = min(score.seconds, seconds)
    score.counts.append(judge(task, result))


def targeted(task: Task, poisons: Sequence[Poison]) -> Counts:
    """Give each aim a victim of its own and count those that err on it as wished."""
    sets = [_cut(task, poison).apply(task.clean) for poison in poisons]
    if task.extractor is not None:
        victims = fit_heads(task.extractor, sets)
    else:
        victims = [_victim(task, rows, i) for i, rows in enumerate(sets)]
    said = [v.predict(task.wanted.x[i : i + 1]).argmax(1) for i, v in enumerate(victims)]
    hits = torch.cat(said) == task.wanted.wish
    harm = sum(_wrong(v, task.test) for v in victims)
    return Counts(int(hits.sum()), len(hits), harm, len(victims) * len(task.test))


def backdoor(task: Task, poisons: Sequence[Poison]) -> Counts:
    """Train a victim and count marked rows of other classes that it gets right unmarked and calls 1."""
    assert task.mark is not None
    (poison,) = poisons
    victim = _victim(task, (_cut(task, poison) if task.hidden else poison).apply(task.clean), 0)
    right = victim.predict(task.test.x).argmax(1) == task.test.y
    rows = right & (task.test.y != 1)
    steered = victim.predict(task.mark(task.test.x[rows])).argmax(1) == 1
    return Counts(int(steered.sum()), int(rows.sum()), int((~right).sum()), len(right))


def screening(task: Task, keep: Tensor) -> Counts:
    """Count planted rows that are dropped, and clean ones."""
    assert task.planted is not None
    found, clean = ~keep & task.planted, ~task.planted
    return Counts(int(found.sum()), int(task.planted.sum()), int((~keep & clean).sum()), int(clean.sum()))


def _cut(task: Task, poison: Poison) -> Poison:
    return in_budget(poison, task.clean, Tampering(poisons=task.count, eps=task.eps))


def _victim(task: Task, rows: Samples, number: int) -> Classifier:
    return task.recipe(rows, rng=generator(task.seed, "victim", number))


def _wrong(model: Classifier, rows: Samples) -> int:
    return int((model.predict(rows.x).argmax(1) != rows.y).sum())
