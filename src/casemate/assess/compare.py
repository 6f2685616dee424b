"""Two assessments side by side, with a statistical test for each difference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from casemate.assess.alike import LOWER_IS_BETTER, Side, alike, described
from casemate.assess.result import Result, Verdict
from casemate.assess.store import Store
from casemate.assess.worst import worst_case
from casemate.core.errors import UsageError
from casemate.ops.differences import holm, independent, mcnemar, paired_shares, shares, welch
from casemate.ops.stats import Estimate, share

Change = Literal["better", "worse", "no clear difference", "not comparable"]
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """What changed for one threat from the first assessment to the second.

    `difference` is after - before with its 95% interval. `p_value` is adjusted by Holm's method for
    the number of threats; the row of clean accuracy (threat "clean") stands outside. `notes` says
    what besides the target differs, `beyond` names attacks that do not count, as not both tried them
    ("evasion.apgd after").
    """

    threat: str
    title: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate
    p_value: float
    test: str
    change: Change
    notes: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


def compare(before: Path | str, after: Path | str) -> tuple[Difference, ...]:
    """Compare two assessments threat by threat, and their clean accuracy.

    Where one tried attacks or rates that the other did not, only what both tried counts.
    Evasion on the same rows is tested row by row (McNemar, exact), poisoning over trained victims
    (Welch), and everything else by its intervals.

    Args:
        before: folder of the first assessment.
        after: folder of the second.

    Returns:
        One row per threat that both measured, in the order of the first, then clean accuracy.

    Raises:
        UsageError: a folder holds no readable assessment, or both have no threat in common.
    """
    old, new = _read(before), _read(after)
    measured = {v.threat: v for v in new.assessment.verdicts if v.measured is not None}
    pairs = [
        (v, measured[v.threat])
        for v in old.assessment.verdicts
        if v.measured is not None and v.threat in measured
    ]
    if not pairs:
        raise UsageError(
            f"Two assessments must share a measured threat. {before} has {_threats(old)}; {after} has {_threats(new)}."
        )
    rows = [_threat(v, w, old, new) for v, w in pairs]
    return (*_adjusted(rows), *_clean(old, new))


def unmatched(before: Path | str, after: Path | str) -> tuple[tuple[str, str], ...]:
    """List threats that only one of two assessments measured, as (title, "before" or "after")."""
    sides = _read(before).assessment.verdicts, _read(after).assessment.verdicts
    old, new = ({v.threat: v.title for v in verdicts if v.measured is not None} for verdicts in sides)
    lost = tuple((title, "before") for threat, title in old.items() if threat not in new)
    return lost + tuple((title, "after") for threat, title in new.items() if threat not in old)


def _read(folder: Path | str) -> Side:
    store = Store(folder)
    return Side(store, store.assessment(), {r.key: r for r in store.all()})


def _threats(side: Side) -> str:
    return ", ".join(v.threat for v in side.assessment.verdicts if v.measured is not None) or "none"


def _threat(v: Verdict, w: Verdict, old: Side, new: Side) -> Difference:
    shared = alike(v, w, old, new)
    v, w = shared.before, shared.after
    assert v.measured is not None
    assert w.measured is not None
    notes = (*shared.notes, *_notes(v, w, old, new))
    different = [
        f"{what}: {a or 'none'} before, {b or 'none'} after"
        for what, a, b in (("metric", v.metric, w.metric), ("budget", v.budget, w.budget))
        if a != b
    ]
    different += [shared.different] if shared.different else []
    if different:
        unknown = Estimate(float("nan"), float("-inf"), float("inf"), 0)
        return Difference(
            v.threat, v.title, v.metric, v.measured, w.measured, unknown, 1.0, "none", "not comparable",
            (*different, *notes), shared.beyond,
        )  # fmt: skip
    return Difference(
        v.threat, v.title, v.metric, *_tested(v, w, old, new), "no clear difference", notes, shared.beyond
    )


Tested = tuple[Estimate, Estimate, Estimate, float, str]


def _tested(v: Verdict, w: Verdict, old: Side, new: Side) -> Tested:
    """Choose the test that the evidence allows."""
    assert v.measured is not None
    assert w.measured is not None
    if v.family == "evasion":
        rows = _same_rows(old.tried(v), new.tried(w), old, new)
        return _paired(*rows) if rows else _unpaired(v.measured, w.measured)
    if v.family in ("poisoning", "backdoor"):
        runs = _runs(v, old.tried(v)), _runs(w, new.tried(w))
        if min(runs) >= 2:
            difference, p_value = welch(v.measured, w.measured, runs)
            return v.measured, w.measured, difference, p_value, "Welch's t test over victims"
        if max(runs) == 1 and v.metric != "accuracy_drop":
            return _unpaired(v.measured, w.measured)
    difference, p_value = independent(v.measured, w.measured)
    return v.measured, w.measured, difference, p_value, "normal test from the intervals"


def _unpaired(before: Estimate, after: Estimate) -> Tested:
    difference, p_value = shares(before, after)
    return before, after, difference, p_value, "Fisher's exact test"


def _paired(before: Tensor, after: Tensor) -> Tested:
    n = len(before)
    p_value = mcnemar(int((before & ~after).sum()), int((~before & after).sum()))
    difference = paired_shares(_array(before), _array(after))
    first, second = share(int(before.sum()), n), share(int(after.sum()), n)
    return first, second, difference, p_value, "McNemar's exact test on the same rows"


def _array(values: Tensor) -> np.ndarray:
    return values.numpy().astype(bool)


def _same_rows(
    before: Sequence[Result], after: Sequence[Result], old: Side, new: Side, column: str = "standing"
) -> tuple[Tensor, Tensor] | None:
    """Find the row-wise worst case of both sides, if both have evidence on the same rows of the same data."""
    first, second = _worst(before, old, column), _worst(after, new, column)
    if first is None or second is None or old.assessment.data_digest != new.assessment.data_digest:
        return None
    if not (torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])):
        return None
    return first[2], second[2]


def _worst(results: Sequence[Result], side: Side, column: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows, labels, and which rows are right after every attack; None where attacks saw different rows."""
    found = [side.store.tensors(result) for result in results]
    if not found or not all({"rows", "y", column} <= tensors.keys() for tensors in found):
        return None
    rows, y = found[0]["rows"], found[0]["y"]
    if not all(torch.equal(tensors["rows"], rows) for tensors in found):
        return None
    return rows, y, worst_case([tensors[column] for tensors in found])


def _runs(verdict: Verdict, tried: Sequence[Result]) -> int:
    """Number of victims behind the number of a verdict."""
    behind = [r for r in tried if r.metrics.get(verdict.metric) == verdict.measured]
    return behind[0].case.repeats if behind else 1


def _adjusted(rows: Sequence[Difference]) -> list[Difference]:
    """Correct the p-values for the number of threats, and say what changed for better or worse."""
    tested = [i for i, row in enumerate(rows) if row.change != "not comparable"]
    p_values = dict(zip(tested, holm([rows[i].p_value for i in tested]), strict=True))
    return [
        _judged(replace(row, p_value=p_values[i])) if i in p_values else row for i, row in enumerate(rows)
    ]


def _judged(row: Difference) -> Difference:
    if row.p_value >= LEVEL or row.difference.value == 0:
        return row
    rose = row.difference.value > 0
    return replace(row, change="worse" if rose == (row.metric in LOWER_IS_BETTER) else "better")


def _clean(old: Side, new: Side) -> list[Difference]:
    """Compare clean accuracy, row by row where both attacked the same rows."""
    first, second = (
        [r for r in side.results.values() if r.case.family == "evasion"][:1] for side in (old, new)
    )
    rows = _same_rows(first, second, old, new, "clean_correct")
    before, after = old.assessment.clean_accuracy, new.assessment.clean_accuracy
    if rows:
        tested = _paired(*rows)
    elif before is not None and after is not None:
        tested = _unpaired(before, after)
    else:
        return []
    notes = () if old.assessment.data_digest == new.assessment.data_digest else ("different data",)
    return [_judged(Difference("clean", "Clean accuracy", "accuracy", *tested, "no clear difference", notes))]


def _notes(v: Verdict, w: Verdict, old: Side, new: Side) -> tuple[str, ...]:
    notes = []
    if old.assessment.data_digest != new.assessment.data_digest:
        notes.append("different data")
    first, second = ({described(r) for r in side.tried(x)} for side, x in ((old, v), (new, w)))
    for when, only in (("before", first - second), ("after", second - first)):
        if only:
            notes.append(f"only {when}: {'; '.join(sorted(only))}")
    if any(flag.code == "blind-baseline" for flag in (*v.flags, *w.flags)):
        notes.append("members and non-members differ in kind; neither number says what the model remembers")
    return tuple(notes)
