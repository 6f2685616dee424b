"""The judge of semantic attacks: an input counts if the target misreads it and its meaning is still there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.families.evasion import subset
from casemate.assess.oracles import Jury, jury
from casemate.assess.result import Flag, Spent
from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry
from casemate.core.semantic import Attributes, Colours, Conditional, Latent, SemanticBudget
from casemate.core.spaces import Space, space_of
from casemate.core.target import Classifier, GradientOracle, LabelOracle, Ledger
from casemate.core.threat import Goal, Misclassify
from casemate.core.tick import Tick
from casemate.ops.rng import rows as row_streams
from casemate.ops.rng import seed_of, seeded
from casemate.ops.rows import keep
from casemate.ops.stats import Estimate, median, share

SHARD = 100
GALLERY = 6


@dataclass(frozen=True)
class Judged:
    """Candidates x (N, *S) for n rows, and which are `misread`, `legitimate`, and both after rounding.

    `stray` marks codes that were not allowed, which were clipped, or that are no numbers; `far` (N,) is how
    far a code lies from the input's own.
    """

    x: Tensor
    predicted: Tensor
    misread: Tensor
    legitimate: Tensor
    fooled_8bit: Tensor
    stray: Tensor
    far: Tensor

    @property
    def fooled(self) -> Tensor:
        """Rows that count, (N,) bool."""
        return self.misread & self.legitimate


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Attack test rows in the space of the budget, decode the codes and ask target and independent readers."""
    budget = case.budget
    if not isinstance(budget, Latent | Conditional | Attributes | Colours):
        raise NotApplicable("a semantic case needs a budget of codes, attributes or colours")
    if issubclass(entry.access, GradientOracle) and not bench.target.differentiable:
        raise NotApplicable(f"{entry.id} needs gradients, which this target does not give")
    samples, numbers = subset(bench.test, case.rows, case.seed)
    goal = Misclassify(samples.y)
    space = space_of(budget, samples.x, goal)
    readers = _readers(budget, bench, numbers, case.seed, tick)
    with seeded(seed_of(case.seed, "clean"), bench.target.device):
        correct = bench.target.predict(samples.x).argmax(1) == samples.y
        again = samples.x if isinstance(budget, Conditional) else decode(space, space.start)
        # an input that is misread as soon as it is made again is no success of the attack
        able = correct & (bench.target.predict(again).argmax(1) == samples.y)
    if 2 * int(able.sum()) < int(correct.sum()):
        raise NotApplicable(
            f"what the generator makes of this data is misread: {int(able.sum())} of {int(correct.sum())} "
            "rows are still right, so that it is no generator for this data"
        )
    todo = able.nonzero().flatten()
    x, y = samples.x[todo], samples.y[todo]
    codes, ledger = _attacked(entry, case, budget, bench, x, goal[todo], numbers[todo], tick)
    found = judge(bench.target, readers, space[todo], codes, y)
    draws = 1 if isinstance(budget, Colours) else int(ledger.queries.max()) if len(todo) else 0
    on, wish = x.to(bench.target.device), goal[todo].to(bench.target.device)
    drawn = _drawn(bench, space_of(budget, on, wish), wish, draws, numbers[todo], case.seed).to(x.device)
    control = judge(bench.target, readers, space[todo], drawn, y)
    metrics, baseline = _metrics(found, correct, budget), _metrics(control, correct, budget)
    return Measured(
        headline="robust_accuracy",
        metrics=metrics,
        baseline=baseline,
        clean=_clean(samples.x, samples.y, correct, able, readers),
        flags=_flags(found, metrics, baseline),
        spent=_spent(ledger),
        tensors=_evidence(samples.x, samples.y, numbers, correct, todo, found),
        notes={"random_draws_of_the_baseline": draws, "meaning_judged_by": _judged_by(budget)},
    )


def judge(target: Classifier, readers: Jury | None, space: Space, codes: Tensor, y: Tensor) -> Judged:
    """Clip and decode codes (N, A) and measure what came of them; without readers every meaning stays."""
    sane = codes.isfinite().all(1)
    allowed = space.clip(torch.where(sane[:, None], codes, space.start))
    stray = ~sane | ((allowed - codes).abs() > 1e-5 * (1 + codes.abs())).any(1)
    x = decode(space, allowed)
    logits, levels = target.predict(x), (x * 255).round() / 255
    kept, kept_8bit = (
        torch.ones_like(sane) if readers is None else readers.keeps(each, y) for each in (x, levels)
    )
    goal = Misclassify(y)
    misread = goal.reached(logits) & ~stray
    rounded = misread & kept & kept_8bit & goal.reached(target.predict(levels))
    return Judged(x, logits.argmax(1), misread, kept, rounded, stray, (allowed - space.start).norm(dim=1))


def decode(space: Space, codes: Tensor) -> Tensor:
    """Make inputs of codes without a graph, some at a time."""
    with torch.no_grad():
        parts = [space[part].decode(codes[part]) for part in torch.arange(len(codes)).split(250)]
        return torch.cat(parts) if parts else space.decode(codes)


def _readers(budget: SemanticBudget, bench: Bench, held: Tensor, seed: int, tick: Tick) -> Jury | None:
    match budget:
        case Attributes():
            return None
        case Colours():
            return jury(bench, held, seed, tick, colour=False)
        case _:
            return jury(bench, held, seed, tick)


def _judged_by(budget: SemanticBudget) -> str:
    match budget:
        case Attributes():
            return "construction: the renderer draws the same thing"
        case Colours():
            return "most of three independent nets that see brightness alone"
        case _:
            return "most of three independent nets of other kinds, trained on more data"


def _attacked(
    entry: Entry, case: Case, budget: SemanticBudget, bench: Bench, x: Tensor, goal: Misclassify,
    numbers: Tensor, tick: Tick,
) -> tuple[Tensor, Ledger]:  # fmt: skip
    ledger, device = Ledger.empty(len(x), budget.queries), bench.target.device
    oracle = entry.access(bench.prepared.precise(), ledger)
    shards, parts = torch.arange(len(x)).split(SHARD), []
    for i, part in enumerate(shards):
        codes = entry.run(
            oracle[part], x[part].to(device), goal[part].to(device), budget,
            rng=row_streams(case.seed, numbers[part], entry.id), **case.params,
            tick=lambda step, total, values, i=i: tick(i * total + step, len(shards) * total, values),
        )  # fmt: skip
        parts.append(codes.to(x.device))
    return torch.cat(parts) if parts else space_of(budget, x, goal).start, ledger


def _drawn(bench: Bench, space: Space, goal: Goal, draws: int, numbers: Tensor, seed: int) -> Tensor:
    """Draw codes at random until one is misread: each row's first such code, else its last."""
    oracle = LabelOracle(bench.prepared, len(numbers))
    rng, result = row_streams(seed, numbers, "random codes"), space.start.clone()
    left = torch.arange(len(numbers), device=result.device)
    with torch.no_grad():
        for _ in range(draws):
            codes = space.draw(rng)
            result[left] = codes
            stand = ~oracle.succeeds(space.decode(codes), goal)
            oracle, space, goal, rng, left = keep(stand, oracle, space, goal, rng, left)
            if not len(left):
                break
    return result


def _metrics(found: Judged, correct: Tensor, budget: SemanticBudget) -> dict[str, Estimate]:
    n, fooled, misread = len(correct), int(found.fooled.sum()), int(found.misread.sum())
    right = int(correct.sum())
    metrics = {
        "robust_accuracy": share(right - fooled, n),
        "success_rate": share(fooled, len(found.misread)),
        "robust_accuracy_8bit": share(right - int(found.fooled_8bit.sum()), n),
        "misread_rate": share(misread, len(found.misread)),
        "legitimacy": share(fooled, misread),
    }
    if isinstance(budget, Latent):
        metrics["median_latent_distance"] = median(found.far[found.misread].tolist())
    return metrics


def _clean(x: Tensor, y: Tensor, correct: Tensor, able: Tensor, readers: Jury | None) -> dict[str, Estimate]:
    clean = {
        "accuracy": share(int(correct.sum()), len(y)),
        "robust_accuracy": share(int(correct.sum()), len(y)),
        "accuracy_made_again": share(int(able.sum()), len(y)),
    }
    if readers is not None:
        clean["legitimacy"] = share(int(readers.keeps(x, y).sum()), len(y))
    return clean


def _spent(ledger: Ledger) -> Spent:
    if not len(ledger.queries):
        return Spent()
    return Spent(
        queries_mean=float(ledger.queries.double().mean()),
        queries_max=int(ledger.queries.max()),
        gradients_mean=float(ledger.gradients.double().mean()),
        gradients_max=int(ledger.gradients.max()),
    )


def _flags(found: Judged, metrics: dict[str, Estimate], baseline: dict[str, Estimate]) -> tuple[Flag, ...]:
    flags = []
    if found.stray.any():
        detail = f"{int(found.stray.sum())} codes are not allowed or are not numbers"
        flags.append(Flag(code="budget-exceeded", detail=detail))
    if not found.x.isfinite().all():
        flags.append(Flag(code="nan-output", detail="codes were decoded to values that are not numbers"))
    gap = metrics["robust_accuracy_8bit"].value - metrics["robust_accuracy"].value
    if gap > 0.02:
        flags.append(Flag(code="eight-bit-gap", detail=f"{gap:.1%} of the rows stand again after rounding"))
    if baseline["success_rate"].low > metrics["success_rate"].high:
        flags.append(Flag(code="baseline-beats-attack", detail="random codes fool more rows"))
    return tuple(flags)


def _evidence(
    x: Tensor, y: Tensor, numbers: Tensor, correct: Tensor, todo: Tensor, found: Judged
) -> dict[str, Tensor]:
    x_adv, standing, legitimate = x.clone(), correct.clone(), torch.zeros_like(correct)
    x_adv[todo], legitimate[todo] = found.x, found.legitimate
    standing[todo[found.fooled]] = False
    show = found.fooled.nonzero().flatten()[:GALLERY]
    return {
        "rows": numbers,
        "y": y,
        "clean_correct": correct,
        "standing": standing,
        "legitimate": legitimate,
        "x_adv": x_adv,
        "gallery_x": x[todo[show]],
        "gallery_adv": found.x[show],
        "gallery_y": y[todo[show]],
        "gallery_pred": found.predicted[show],
    }
