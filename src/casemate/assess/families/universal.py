"""The judge of universal attacks: learnt on training rows once, then applied to test rows never seen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.families.evasion import GALLERY, SHARD, eight_bit, subset
from casemate.assess.result import Flag, Spent
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable, UsageError
from casemate.core.pasting import Pasting, Patch, upright
from casemate.core.registry import Entry
from casemate.core.target import Classifier, GradientOracle, Ledger
from casemate.core.threat import Become, Goal, Lp, Misclassify
from casemate.core.tick import Tick
from casemate.ops.losses import others
from casemate.ops.norms import linear_optimum, project, rounding, shrink, size
from casemate.ops.rng import generator, seed_of, seeded
from casemate.ops.rng import rows as row_streams
from casemate.ops.stats import Estimate, share

LEARNT = 5000  # most training rows that an attack learns from
DRAWS = 10  # random changes, of which the best on the test rows is the baseline
PIECES = 10  # pictures of which the best, shrunk to a patch, is the control

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """The test rows: what the target says of them without an attack, and the adversary's wish.

    `correct` (n,) marks those classified correctly; `eligible` those of them that have not got the
    wanted class already; `places` (n, 4) is where a patch comes to lie.
    """

    samples: Samples
    numbers: Tensor
    own: Tensor
    correct: Tensor
    eligible: Tensor
    goal: Goal
    places: Tensor


@dataclass(frozen=True)
class Outcome:
    """What became of all n rows, measured from the tensors: candidates in the budget and in [0, 1] only."""

    x_adv: Tensor
    predicted: Tensor
    legal: Tensor
    reached: Tensor
    wrong: Tensor
    wrong_8bit: Tensor
    moved: Tensor
    second: Tensor
    norms: Tensor


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Learn on training rows, apply to test rows, and compare with random changes of the same size."""
    budget = case.budget
    if not isinstance(budget, Lp | Pasting):
        raise NotApplicable("a universal case needs a ball or a patch as its budget")
    if isinstance(budget, Lp) is not bool(entry.norms):
        raise NotApplicable(f"{entry.id} knows no such budget")
    if not bench.target.differentiable:
        raise NotApplicable(f"{entry.id} needs gradients, which this target does not give")
    if bench.train is None:
        raise NotApplicable("a universal attack learns from training rows, and there are none")
    params = dict(case.params)
    wanted = params.pop("target", None)
    rows = _rows(case, bench, wanted)
    learnt, ledger = _learn(entry, params, wanted, case, budget, bench, tick)
    found = judge(bench.target, rows, _applied(learnt, rows, budget), budget)
    metrics, baseline = _metrics(found, rows, wanted), _random(case, budget, bench, rows, wanted)
    if isinstance(budget, Pasting):
        metrics["success_rate_real_content"] = _real(budget, bench.train, bench.target, rows, wanted)
    return Measured(
        headline="robust_accuracy",
        metrics=metrics,
        baseline=baseline,
        clean={"accuracy": share(int(rows.correct.sum()), len(rows.own))},
        flags=_flags(found, metrics, baseline),
        spent=_spent(ledger),
        tensors=_evidence(rows, found),
        notes={"training_rows_learnt_from": len(ledger.queries)},
    )


def _rows(case: Case, bench: Bench, wanted: int | None) -> Rows:
    samples, numbers = subset(bench.test, case.rows, case.seed)
    if wanted is not None and wanted >= bench.target.classes:
        raise UsageError(f"The 'target' must be a class, 0 .. {bench.target.classes - 1}. Got {wanted}.")
    with seeded(seed_of(case.seed, "clean"), bench.target.device):
        own = bench.target.predict(samples.x).argmax(1)
    correct = own == samples.y
    eligible = correct if wanted is None else correct & (samples.y != wanted)
    places = row_streams(case.seed, numbers, "places of a patch").uniform(4)
    return Rows(samples, numbers, own, correct, eligible, _goal(samples.y, wanted), places)


def _goal(y: Tensor, wanted: int | None) -> Goal:
    return Misclassify(y) if wanted is None else Become(torch.full_like(y, wanted))


def _learn(
    entry: Entry, params: dict[str, Any], wanted: int | None, case: Case, budget: Lp | Pasting,
    bench: Bench, tick: Tick,
) -> tuple[Map, Ledger]:  # fmt: skip
    """Run the attack on training rows, whose labels it does not see: the target's own answers stand for them."""
    assert bench.train is not None
    order = torch.randperm(len(bench.train), generator=generator(case.seed, "rows learnt from"))[:LEARNT]
    x = bench.train.x[order]
    logits = bench.target.predict(x)
    goal = _goal(logits.argmax(1), wanted)
    x, goal = x[~goal.reached(logits)], goal[~goal.reached(logits)]
    ledger, device = (
        Ledger.empty(len(x), budget.queries if isinstance(budget, Lp) else None),
        bench.target.device,
    )
    oracle = GradientOracle(bench.prepared, ledger)
    learnt: Map = entry.run(
        oracle, x.to(device), goal.to(device), budget, **params, rng=generator(case.seed, entry.id), tick=tick
    )
    if isinstance(budget, Pasting) and not isinstance(learnt, Patch):
        raise TypeError(f"{entry.id} must return a Patch for a patch budget. Got {type(learnt).__name__}.")
    return learnt, ledger


def _applied(learnt: Map, rows: Rows, budget: Lp | Pasting) -> Tensor:
    """Apply a map to the test rows; a patch goes where the harness says, and the map has no say in it."""
    x, parts = rows.samples.x, []
    for part in torch.arange(len(x)).split(SHARD):
        match budget:
            case Lp():
                parts.append(learnt(x[part].clone()).to(x))
            case Pasting():
                assert isinstance(learnt, Patch)
                parts.append(Patch(learnt.pattern, budget).paste(x[part], rows.places[part]).to(x))
            case _:
                assert_never(budget)
    return torch.cat(parts) if parts else x.clone()


def judge(target: Classifier, rows: Rows, x_adv: Tensor, budget: Lp | Pasting) -> Outcome:
    """Measure candidates from the tensors alone: budget, box and predictions, also after rounding to 8 bits."""
    x, y = rows.samples.x, rows.samples.y
    legal, norms = _legal(x_adv, x, budget)
    logits = target.predict(x_adv)
    finite = logits.isfinite().all(1)
    predicted = logits.argmax(1)
    counts = legal & finite
    levels = eight_bit(x_adv, x, budget) if isinstance(budget, Lp) else _round_changed(x_adv, x)
    rounded = target.predict(levels).argmax(1)
    near = _legal(levels, x, budget)[0] & counts
    second = others(logits, predicted).argmax(1) == rows.own
    return Outcome(
        x_adv=x_adv,
        predicted=predicted,
        legal=legal,
        reached=rows.goal.reached(logits) & counts,
        wrong=(predicted != y) & counts,
        wrong_8bit=(rounded != y) & (predicted != y) & near,
        moved=(predicted != rows.own) & counts,
        second=second & counts,
        norms=norms,
    )


def _legal(x_adv: Tensor, x: Tensor, budget: Lp | Pasting) -> tuple[Tensor, Tensor]:
    """Tell which candidates are in the box and keep the budget, and how large the changes are, both (n,)."""
    inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    match budget:
        case Lp():
            norms = size((x_adv - x).double(), budget.norm)
            fits = norms <= budget.eps * (1 + 1e-6) + rounding(x, budget.norm)
        case Pasting():
            norms = size((x_adv - x).double(), "l0")
            fits = norms <= budget.pixels(*x.shape[2:])
        case _:
            assert_never(budget)
    return inside & fits, norms.to(x)


def _round_changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return torch.where(x_adv == x, x, (x_adv * 255).round() / 255)


def _metrics(found: Outcome, rows: Rows, wanted: int | None) -> dict[str, Estimate]:
    n, eligible = len(rows.own), rows.eligible
    metrics = {
        "robust_accuracy": share(int((rows.correct & ~found.wrong).sum()), n),
        "success_rate": share(int((found.reached & eligible).sum()), int(eligible.sum())),
        "fooling_rate": share(int(found.moved.sum()), n),
        "robust_accuracy_8bit": share(int((rows.correct & ~found.wrong_8bit).sum()), n),
    }
    if wanted is not None:
        kept = found.reached & eligible & found.second
        metrics["true_class_second_rate"] = share(int(kept.sum()), int(eligible.sum()))
    return metrics


def _random(
    case: Case, budget: Lp | Pasting, bench: Bench, rows: Rows, wanted: int | None
) -> dict[str, Estimate]:
    """Apply random universal changes of the full budget; the best of them on the test rows is the baseline."""
    name = f"universal noise {budget.model_dump_json()} {case.rows} {case.seed} {wanted}"
    if name not in bench.cache:
        rng = generator(case.seed, "random universal change")
        with seeded(seed_of(case.seed, name), bench.target.device):
            tried = [
                judge(
                    bench.target,
                    rows,
                    _applied(random_map(rows.samples.shape, budget, rng), rows, budget),
                    budget,
                )
                for _ in range(DRAWS)
            ]
        bench.cache[name] = max((_metrics(t, rows, wanted) for t in tried), key=_strength)
    found: dict[str, Estimate] = bench.cache[name]
    return found


def _strength(metrics: dict[str, Estimate]) -> tuple[float, float]:
    return metrics["success_rate"].value, -metrics["robust_accuracy"].value


def random_map(shape: tuple[int, ...], budget: Lp | Pasting, rng: Generator) -> Map:
    """Draw a random universal change of the full budget: signs in linf, a direction in l2, a noisy patch."""
    noise = torch.randn(1, *shape, generator=rng)
    match budget:
        case Lp():
            # from the middle of a box that is wide enough, so that no edge takes a part of it
            reach = shrink(1e9 * noise, budget.norm, budget.radius)
            if budget.norm in ("l1", "l0"):
                half = torch.full_like(noise, 0.5)
                reach = linear_optimum(half, noise, budget.norm, budget.radius) - half
            return lambda x: project(x + reach.to(x), x, budget.norm, budget.radius)
        case Pasting():
            pattern = upright(budget, shape, noise)
            return Patch(torch.rand(pattern.shape, generator=rng), budget)
    assert_never(budget)


def _real(budget: Pasting, train: Samples, target: Classifier, rows: Rows, wanted: int | None) -> Estimate:
    """Paste small real pictures instead; of some, the one that reaches the goal most often."""
    side = budget.side(*train.shape[1:])
    # pictures of the wanted class, or of all in turn
    shown = train.x[train.y == wanted] if wanted is not None else train.x[:: max(1, len(train) // PIECES)]
    small = F.interpolate(shown[:PIECES], size=(side, side), mode="area")
    tried = [
        _metrics(judge(target, rows, Patch(piece, budget).paste(rows.samples.x, rows.places), budget), rows, wanted)
        for piece in small
    ]  # fmt: skip
    return max((t["success_rate"] for t in tried), key=lambda e: e.value, default=share(0, 0))


def _flags(found: Outcome, metrics: dict[str, Estimate], baseline: dict[str, Estimate]) -> tuple[Flag, ...]:
    flags = []
    if not found.legal.all():
        detail = f"{int((~found.legal).sum())} candidates left the budget or [0, 1]"
        flags.append(Flag(code="budget-exceeded", detail=detail))
    if not found.x_adv.isfinite().all():
        flags.append(Flag(code="nan-output", detail="the attack returned values that are not numbers"))
    gap = metrics["robust_accuracy_8bit"].value - metrics["robust_accuracy"].value
    if gap > 0.02:
        flags.append(Flag(code="eight-bit-gap", detail=f"{gap:.1%} of the rows stand again after rounding"))
    if baseline["success_rate"].low > metrics["success_rate"].high:
        flags.append(
            Flag(code="baseline-beats-attack", detail="a random change of equal size fools more rows")
        )
    return tuple(flags)


def _spent(ledger: Ledger) -> Spent:
    """Passes per row learnt from; using the map costs the target nothing."""
    if not len(ledger.queries):
        return Spent()
    return Spent(
        queries_mean=float(ledger.queries.double().mean()),
        queries_max=int(ledger.queries.max()),
        gradients_mean=float(ledger.gradients.double().mean()),
        gradients_max=int(ledger.gradients.max()),
    )


def _evidence(rows: Rows, found: Outcome) -> dict[str, Tensor]:
    show = (found.reached & rows.eligible).nonzero().flatten()[:GALLERY]
    return {
        "rows": rows.numbers,
        "y": rows.samples.y,
        "clean_correct": rows.correct,
        "standing": rows.correct & ~found.wrong,
        "x_adv": found.x_adv,
        "norms": found.norms.float(),
        "gallery_x": rows.samples.x[show],
        "gallery_adv": found.x_adv[show],
        "gallery_y": rows.samples.y[show],
        "gallery_pred": found.predicted[show],
    }
