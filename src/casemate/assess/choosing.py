"""The rows that candidate defences are compared on, and what each achieves there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from casemate.assess.bench import Bench
from casemate.core.data import Samples, split
from casemate.core.errors import UsageError
from casemate.ops.rng import generator
from casemate.ops.stats import Estimate

ROBUST = "robust_accuracy"  # what ranks candidates against evasion
NONE = "no defence"  # the target as it is, among the candidates
MOST = 300  # rows, each of which is attacked once per candidate
LEAST = 100  # test rows to spare, without which training rows are taken
HOLDOUT = 500  # training rows that are kept aside then

UNSEEN = "test rows that neither training nor the numbers on evasion use"
SEEN = "training rows, which trained defences have not seen; all other candidates have learnt from them"


@dataclass(frozen=True)
class Choice:
    """Rows that all candidates are compared on, `what` they are, and the rows `rest` left to train on."""

    rows: Samples
    what: str
    rest: Samples | None


def choose_rows(bench: Bench, used: int, seed: int) -> Choice:
    """Set rows aside to compare candidates on, the same for all.

    Args:
        bench: the target with its data.
        used: number of test rows that the final numbers use (those of `subset` with the same seed).
        seed: base seed.

    Returns:
        Test rows that the final numbers leave out; where they are fewer than 100, training rows.

    Raises:
        UsageError: there are neither.
    """
    order = torch.randperm(len(bench.test), generator=torch.Generator().manual_seed(seed))
    spare = order[used:][:MOST]
    if len(spare) >= LEAST:
        return Choice(bench.test[spare], UNSEEN, bench.train)
    if bench.train is None:
        raise UsageError(
            f"Choosing a defence needs {LEAST} test rows beside the {used} that are attacked, or training "
            f"data. Got {len(bench.test)} test rows."
        )
    aside, rest = split(bench.train, min(HOLDOUT, len(bench.train) // 5), generator(seed, "holdout"))
    return Choice(aside[:MOST], SEEN, rest)


def effect(robust: Estimate) -> dict[str, Any]:
    """Tell what a candidate against evasion achieves, for the report."""
    return {ROBUST: asdict(robust)}


def value(effects: Mapping[str, Any], name: str = ROBUST) -> float:
    """Read the number of an effect."""
    return float(effects[name]["value"])


def ranked(effects: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Order candidates by their accuracy under an attack that knows them, the best first."""
    return dict(sorted(effects.items(), key=lambda item: -value(item[1])))


def recommended(price: Mapping[str, Any]) -> list[str]:
    """Name the defence that was kept, if it stands clearly better than the target does without any."""
    kept, effects = price.get("defence"), price.get("candidates", {})
    if not kept:
        return []
    return [kept] if effects[kept][ROBUST]["low"] > effects[NONE][ROBUST]["high"] else []
