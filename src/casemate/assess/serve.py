"""Put a defence in front of a finished target, and choose between such defences by what they achieve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from casemate.assess.bench import Bench
from casemate.assess.choosing import effect
from casemate.assess.digest import digest
from casemate.assess.progress import Progress
from casemate.assess.result import Flag
from casemate.assess.retrain import installed, standing
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry
from casemate.core.target import Classifier
from casemate.core.threat import Lp
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate

SLOW = frozenset({"serving.smoothing"})  # answers by a hundred passes and wants a model trained for it


@dataclass(frozen=True)
class Served:
    """A target behind a defence; `robust` is its accuracy under an attack that knows the defence."""

    entry: Entry
    model: Classifier
    robust: Estimate


def serve(
    bench: Bench, candidates: Sequence[Entry], rows: Samples, budget: Lp, seed: int, progress: Progress
) -> tuple[Served | None, dict[str, Any]]:
    """Defend the target in each way and attack each result, knowing the defence (BPDA, EOT).

    Args:
        bench: the target.
        candidates: serving defences; those that do not fit the target are left out.
        rows: the rows that compare them.
        budget: the ball that the target should withstand.
        seed: base seed.
        progress: told of each defence.

    Returns:
        The best, None where none fits, and what to report of each.
    """
    found: list[Served] = []
    progress.plan([entry.id for entry in candidates])
    for entry in candidates:
        progress.start(entry.id, f"attacking {entry.id}")
        try:
            model = entry.run(bench.target, rng=generator(seed, entry.id), **entry.validate({}))
        except NotApplicable:
            progress.finish(entry.id, None)
            continue
        found.append(Served(entry, model, standing(bench, model, rows, budget, seed)))
        progress.finish(entry.id, None)
    report = {s.entry.id: effect(s.robust) for s in found}
    return max(found, key=lambda s: s.robust.value, default=None), report


def behind(bench: Bench, served: Served, seed: int) -> tuple[Bench, list[Flag]]:
    """Put the defended model in the target's place, with the hooks it calls for: bench and doubts."""
    name = digest(bench.digests["target"], served.entry.id, str(served.entry.validate({})))
    return installed(replace(bench, digests={**bench.digests, "target": name}), served.model, seed)
