"""The judge of evasion: attacks propose, here budget, box and success are measured again."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.result import Curve, Flag, Spent
from casemate.assess.surrogates import surrogate
from casemate.core.adaptive import Hooks, eot, through
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Entry, find
from casemate.core.target import Classifier, GradientOracle, LabelOracle, Ledger, Prepared, ScoreOracle
from casemate.core.threat import Goal, Lp, Misclassify, NeverReached
from casemate.core.tick import Tick, ignore
from casemate.ops.norms import rounding, size
from casemate.ops.rng import rows as row_streams
from casemate.ops.rng import seed_of, seeded
from casemate.ops.stats import Estimate, median, share

PLAIN = Hooks()
SHARD = 250
TRIAL = 8  # rows that layers are tried on
GALLERY = 6


@dataclass(frozen=True)
class Attempt:
    """What an attack achieved on n rows, as measured from the tensors it returned.

    `reached` marks candidates in the box that reach the goal, `fooled` those that are in the ball
    as well, `fooled_8bit` those that still are after rounding to 8 bits. Of a target that answers at
    random several answers are taken: most of them decide, and `fooled_once` marks candidates in the
    ball with at least one. `norms` are the sizes of
    the perturbations, `stray` marks candidates outside the box or outside the ball that the attack was
    told to keep, `lost` those to which the target answers with values that are no numbers.
    """

    x_adv: Tensor
    predicted: Tensor
    reached: Tensor
    fooled: Tensor
    fooled_once: Tensor
    fooled_8bit: Tensor
    norms: Tensor
    stray: Tensor
    lost: Tensor
    ledger: Ledger


def attempt(
    entry: Entry,
    prepared: Prepared,
    x: Tensor,
    goal: Goal,
    budget: Lp,
    *,
    params: dict[str, Any],
    numbers: Tensor,
    seed: int,
    nearest: bool = True,
    hooks: Hooks = PLAIN,
    crafted_on: Prepared | None = None,
    tick: Tick = ignore,
) -> Attempt:
    """Run an attack on x (N, *S) and judge it.

    Args:
        entry: the evasion attack.
        prepared: the target.
        x: inputs in [0, 1].
        goal: the adversary's wish for each row.
        budget: the ball that counts.
        params: the attack's parameters.
        numbers: row numbers (N,), which name the rows' random streams.
        seed: base seed.
        nearest: let minimum-norm attacks look for the nearest example beyond the ball as well,
            which gives accuracy at every radius; else they may stop inside the ball.
        hooks: how gradients are taken, and how many answers judge each candidate.
        crafted_on: another model that the attack is given instead of the target, which it then never
            asks; it runs all its steps, and the ledger counts the passes of that model.
        tick: called after each step of each shard.

    Returns:
        The attempt, recomputed in float32 from the returned tensors.
    """
    _refuse_without_access(entry, (crafted_on or prepared).target)
    if crafted_on is not None:
        _refuse_to_transfer(entry)
    wish = goal if crafted_on is None else NeverReached(goal)
    free = entry.minimum_norm and nearest
    asked = budget.model_copy(update={"eps": float("inf")}) if free else budget
    ledger = Ledger.empty(len(x), budget.queries)
    prepared = prepared if entry.coarse else prepared.precise()
    seen = crafted_on or hooked(entry, prepared, hooks, x, seed)
    oracle: LabelOracle = entry.access(seen, ledger)
    shards, device = torch.arange(len(x)).split(SHARD), prepared.target.device
    parts = []
    for i, part in enumerate(shards):
        streams = row_streams(seed, numbers[part], entry.id)
        candidates = entry.run(
            oracle[part], x[part].to(device), wish[part].to(device), asked, rng=streams, **params,
            tick=lambda step, total, values, i=i: tick(i * total + step, len(shards) * total, values),
        )  # fmt: skip
        parts.append(candidates.to(x.device))
    x_adv = torch.cat(parts) if parts else x.clone()
    return judge(
        prepared.target, x, x_adv, goal, budget, ledger, limit=asked.eps, answers=hooks.answers, seed=seed
    )


def hooked(entry: Entry, prepared: Prepared, hooks: Hooks, x: Tensor, seed: int) -> Prepared:
    """Change how gradients are taken, for attacks that take any."""
    if not issubclass(entry.access, GradientOracle):
        return prepared
    if hooks.bpda:
        prepared = through(prepared, hooks.bpda, x[:TRIAL].to(prepared.target.device))
    return eot(prepared, hooks.eot, seed=seed_of(seed, entry.id)) if hooks.eot > 1 else prepared


def _refuse_without_access(entry: Entry, target: Classifier) -> None:
    if issubclass(entry.access, GradientOracle) and not target.differentiable:
        raise NotApplicable(f"{entry.id} needs gradients, which this target does not give")
    if issubclass(entry.access, ScoreOracle) and target.outputs == "labels":
        raise NotApplicable(f"{entry.id} needs scores, and this target gives labels only")


def _refuse_to_transfer(entry: Entry) -> None:
    if entry.minimum_norm or not issubclass(entry.access, GradientOracle):
        raise NotApplicable(f"{entry.id} stops at the first example, and such examples do not transfer")


def judge(
    target: Classifier,
    x: Tensor,
    x_adv: Tensor,
    goal: Goal,
    budget: Lp,
    ledger: Ledger,
    *,
    limit: float | None = None,
    answers: int = 1,
    seed: int = 0,
) -> Attempt:
    """Measure candidates again: sizes, box and predictions from the tensors alone.

    `limit` is the radius that the attack was told to keep, if it was another than the budget's;
    `answers` are taken of a target that answers at random, each with its own seed.
    """
    norms = size((x_adv - x).double(), budget.norm).to(x.dtype)
    room = budget.eps * (1 + 1e-6) + rounding(x, budget.norm)
    legal = x_adv.isfinite().flatten(1).all(1) & (x_adv.flatten(1).clamp(0, 1) == x_adv.flatten(1)).all(1)
    seen = ask(target, x_adv, goal, answers, seed)
    reached = seen.mostly & legal
    fooled = reached & (norms <= room)
    levels = eight_bit(x_adv, x, budget)
    near = size((levels - x).double(), budget.norm) <= room
    rounded = ask(target, levels, goal, answers, seed).mostly & fooled & near
    once = seen.once & legal & (norms <= room)
    told = budget.eps if limit is None else limit
    stray = ~legal | (norms > told * (1 + 1e-6) + rounding(x, budget.norm))
    return Attempt(x_adv, seen.label, reached, fooled, once, rounded, norms, stray, seen.lost, ledger)


class Answers(NamedTuple):
    """What a target says to n inputs in one or several answers; all tensors are (n,).

    The goal is reached `mostly` in more than half of the answers, `once` in any. `label` is the most
    frequent one, `lost` marks values that are no numbers.
    """

    mostly: Tensor
    once: Tensor
    label: Tensor
    lost: Tensor


def ask(target: Classifier, x: Tensor, goal: Goal, answers: int, seed: int) -> Answers:
    """Ask a target several times, each time with its own seed; once, as things stand, for one answer."""
    found = []
    for i in range(answers):
        with seeded(seed_of(seed, "answer", i), target.device) if answers > 1 else nullcontext():
            found.append(target.predict(x))
    logits = torch.stack(found)
    hits = torch.stack([goal.reached(each) for each in found])
    label = logits.argmax(2).mode(0).values
    return Answers(hits.double().mean(0) > 0.5, hits.any(0), label, ~logits.isfinite().all(2).all(0))


def eight_bit(x_adv: Tensor, x: Tensor, budget: Lp) -> Tensor:
    """Round candidates to 256 levels without leaving an linf ball: nearest level inside it."""
    levels = (x_adv * 255).round()
    if budget.norm == "linf" and budget.eps < float("inf"):
        slack = 1e-4  # of a level: keeps x + eps itself when both lie on the grid
        low = ((x - budget.eps) * 255 - slack).ceil()
        high = ((x + budget.eps) * 255 + slack).floor()
        # an image off the grid may have no level inside a tiny ball: then plain rounding stands
        levels = torch.where(low <= high, levels.clamp(min=low, max=torch.maximum(low, high)), levels)
    return (levels / 255).clamp(0, 1)


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Attack the first rows of the test data that earlier cases left standing."""
    if not isinstance(case.budget, Lp):
        raise NotApplicable("an evasion case needs a budget")
    samples, numbers = subset(bench.test, case.rows, case.seed)
    # a net that draws random numbers is right on the same rows in every case, and so in the baseline
    with seeded(seed_of(case.seed, "clean"), bench.target.device):
        plain = ask(bench.target, samples.x, Misclassify(samples.y), case.hooks.answers, case.seed)
    # an answer of NaN is no error that an adversary could take credit for, and not right either
    clean = ~plain.mostly & (plain.label == samples.y)
    standing = clean & _standing_after(case, bench, len(samples))
    todo = standing.nonzero().flatten()
    x, y = samples.x[todo], samples.y[todo]
    found = attempt(
        entry, bench.prepared, x, Misclassify(y), case.budget,
        params=case.params, numbers=numbers[todo], seed=case.seed, nearest=not case.after, hooks=case.hooks,
        crafted_on=surrogate(case, bench, tick) if case.crafted_on else None, tick=tick,
    )  # fmt: skip
    n = len(samples)
    metrics = _shares(clean, standing, todo, found, n)
    always = standing & ~plain.once
    always[todo[found.fooled_once]] = False
    if case.hooks.answers > 1:
        metrics["robust_accuracy_every_answer"] = share(int(always.sum()), n)
    baseline = _noise(case, bench, samples, numbers, clean)
    curve = None
    if entry.minimum_norm and not case.after:
        metrics["median_norm"] = median(found.norms[found.reached].tolist())
        curve = _curve(case.budget, found, n)
    return Measured(
        headline="robust_accuracy",
        metrics=metrics,
        baseline=baseline,
        clean={"accuracy": share(int(clean.sum()), n)},
        curves={"accuracy_eps": curve} if curve else {},
        flags=_flags(case, found, metrics, baseline),
        spent=_spent(found.ledger, case),
        tensors=_evidence(samples, numbers, clean, standing, todo, found)
        | ({"always": always} if case.hooks.answers > 1 else {}),
    )


def subset(test: Samples, n: int, seed: int) -> tuple[Samples, Tensor]:
    """Choose n test rows by the seed, the same for every case: samples and their row numbers."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    numbers = order[:n].sort().values
    return test[numbers], numbers


def _standing_after(case: Case, bench: Bench, n: int) -> Tensor:
    standing = torch.ones(n, dtype=torch.bool)
    for key in case.after:
        earlier = bench.store.get(key)
        if earlier is None or earlier.status != "done":
            continue
        standing &= bench.store.tensors(earlier)["standing"]
    return standing


def _shares(clean: Tensor, standing: Tensor, todo: Tensor, found: Attempt, n: int) -> dict[str, Estimate]:
    left = int(standing.sum()) - int(found.fooled.sum())
    left_8bit = int(standing.sum()) - int(found.fooled_8bit.sum())
    attacked = int(clean.sum())
    return {
        "robust_accuracy": share(left, n),
        "success_rate": share(attacked - left, attacked),
        "robust_accuracy_8bit": share(left_8bit, n),
    }


def _noise(case: Case, bench: Bench, samples: Samples, numbers: Tensor, clean: Tensor) -> dict[str, Estimate]:
    """Attack the clean-correct rows with random noise of the same budget, as the baseline."""
    assert isinstance(case.budget, Lp)
    name = f"noise {case.budget.model_dump_json()} {case.rows} {case.seed} {case.hooks.answers}"
    if name not in bench.cache:
        todo = clean.nonzero().flatten()
        noise = find("evasion.random_noise")
        # whichever case comes first computes it for all, with the same random numbers
        with seeded(seed_of(case.seed, name), bench.target.device):
            bench.cache[name] = attempt(
                noise, bench.prepared, samples.x[todo], Misclassify(samples.y[todo]), case.budget,
                params=noise.validate({}), numbers=numbers[todo], seed=case.seed,
                hooks=Hooks(answers=case.hooks.answers),
            )  # fmt: skip
    found: Attempt = bench.cache[name]
    attacked, n = len(found.fooled), len(samples)
    return {
        "robust_accuracy": share(attacked - int(found.fooled.sum()), n),
        "success_rate": share(int(found.fooled.sum()), attacked),
        "robust_accuracy_8bit": share(attacked - int(found.fooled_8bit.sum()), n),
    }


def _curve(budget: Lp, found: Attempt, n: int) -> Curve:
    """Robust accuracy over the radius, which the norms of one minimum-norm run give."""
    broken_at = found.norms[found.reached].double()
    far = float(broken_at.quantile(0.98)) if len(broken_at) else 0.0
    radii = torch.linspace(0, max(2 * budget.eps, far), 41, dtype=torch.float64)
    points = [share(len(found.norms) - int((broken_at <= r).sum()), n) for r in radii]
    return Curve(
        x=radii.tolist(),
        y=[p.value for p in points],
        low=[p.low for p in points],
        high=[p.high for p in points],
        x_label=f"{budget.norm} radius, in units of x",
        y_label="accuracy under attack",
    )


def _flags(
    case: Case, found: Attempt, metrics: dict[str, Estimate], baseline: dict[str, Estimate]
) -> tuple[Flag, ...]:
    flags = []
    if found.stray.any():
        flags.append(
            Flag(
                code="budget-exceeded", detail=f"{int(found.stray.sum())} candidates left the ball or [0, 1]"
            )
        )
    if not found.x_adv.isfinite().all():
        flags.append(Flag(code="nan-output", detail="the attack returned values that are not numbers"))
    elif found.lost.any():
        detail = f"on {int(found.lost.sum())} candidates the target answers with values that are not numbers"
        flags.append(Flag(code="nan-output", detail=detail))
    gap = metrics["robust_accuracy_8bit"].value - metrics["robust_accuracy"].value
    if gap > 0.02:
        flags.append(Flag(code="eight-bit-gap", detail=f"{gap:.1%} of the rows stand again after rounding"))
    if case.after:
        earlier = "1 earlier attack" if len(case.after) == 1 else f"{len(case.after)} earlier attacks"
        flags.append(Flag(code="after-others", detail=f"attacked what {earlier} left"))
    elif baseline["success_rate"].low > metrics["success_rate"].high:
        flags.append(Flag(code="baseline-beats-attack", detail="random noise of equal size fools more rows"))
    return tuple(flags)


def _spent(ledger: Ledger, case: Case) -> Spent:
    whose: Literal["target", "surrogate"] = "surrogate" if case.crafted_on else "target"
    if not len(ledger.queries):
        return Spent(of=whose)
    return Spent(
        queries_mean=float(ledger.queries.double().mean()),
        queries_max=int(ledger.queries.max()),
        gradients_mean=float(ledger.gradients.double().mean()),
        gradients_max=int(ledger.gradients.max()),
        of=whose,
    )


def _evidence(
    samples: Samples, numbers: Tensor, clean: Tensor, standing: Tensor, todo: Tensor, found: Attempt
) -> dict[str, Tensor]:
    x_adv, norms = samples.x.clone(), torch.zeros(len(samples))
    x_adv[todo], norms[todo] = found.x_adv, found.norms.float()
    left = standing.clone()
    left[todo[found.fooled]] = False
    show = found.fooled.nonzero().flatten()[:GALLERY]
    return {
        "rows": numbers,
        "y": samples.y,
        "clean_correct": clean,
        "standing": left,
        "x_adv": x_adv,
        "norms": norms,
        "gallery_x": samples.x[todo[show]],
        "gallery_adv": found.x_adv[show],
        "gallery_y": samples.y[todo[show]],
        "gallery_pred": found.predicted[show],
    }
