"""The judge of physical attacks: pictures go through many unseen ways of the channel."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from casemate.assess.bench import Bench, Measured
from casemate.assess.case import Case
from casemate.assess.families.evasion import subset
from casemate.assess.result import Flag, Spent
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.physical import PhysicalBudget, Print, Sticker
from casemate.core.registry import Entry
from casemate.core.target import Classifier, GradientOracle, Ledger
from casemate.core.threat import Become, Goal, Misclassify
from casemate.core.tick import Tick
from casemate.ops.norms import linear_optimum, rounding, size
from casemate.ops.rng import RowGenerator, seed_of, seeded
from casemate.ops.rng import rows as row_streams
from casemate.ops.stats import Estimate, mean_share, share

DRAWS = 200  # unseen ways through the channel for each picture
SHARD = 50  # rows that are attacked at a time
PART = 5  # rows that are photographed at a time
GALLERY = 16


@dataclass(frozen=True)
class Photographed:
    """What became of n pictures: as files, and in the mean over the unseen ways.

    `digital` (n,) tells which files reach the goal, `reached` and `right` (n,) are the shares of the
    ways on which a photograph reaches the goal and is classified correctly.
    """

    x: Tensor
    digital: Tensor
    reached: Tensor
    right: Tensor

    def __getitem__(self, rows: Tensor) -> "Photographed":
        return Photographed(self.x[rows], self.digital[rows], self.reached[rows], self.right[rows])


def measure(entry: Entry, case: Case, bench: Bench, tick: Tick) -> Measured:
    """Attack test pictures, print the files, photograph them and ask the target."""
    budget = case.budget
    if not isinstance(budget, Print | Sticker):
        raise NotApplicable("a physical case needs a budget of prints or stickers")
    if issubclass(entry.access, GradientOracle) and not bench.target.differentiable:
        raise NotApplicable(f"{entry.id} needs gradients, which this target does not give")
    samples, numbers = subset(bench.test, case.rows, case.seed)
    with seeded(seed_of(case.seed, "clean"), bench.target.device):
        correct = bench.target.predict(samples.x).argmax(1) == samples.y
    goal = _goal(budget, samples, numbers, case.seed)
    x, noise = _bystanders(case, budget, bench, samples, numbers, goal)
    todo = correct.nonzero().flatten()
    made, ledger = _attacked(entry, case, budget, bench, samples.x[todo], goal[todo], numbers[todo], tick)
    legal = _legal(made, samples.x[todo], budget)
    file = eight_bit(torch.where(_wide(legal, made), made, samples.x[todo]), samples.x[todo], budget)
    found = photograph(
        bench.target, file, samples.y[todo], goal[todo], budget, numbers=numbers[todo], seed=case.seed
    )
    metrics = _metrics(found, correct, x.right)
    baseline = _metrics(noise[todo], correct, x.right)
    return Measured(
        headline="robust_accuracy",
        metrics=metrics,
        baseline=baseline,
        clean={
            "accuracy": share(int(correct.sum()), len(samples)),
            "robust_accuracy": mean_share(x.right.numpy()),
        },
        flags=_flags(made, legal, metrics, baseline),
        spent=_spent(ledger),
        tensors=_evidence(samples, numbers, correct, x, todo, found, bench.target),
        notes={"ways_through_the_channel_per_picture": DRAWS},
    )


def photograph(
    target: Classifier,
    x: Tensor,
    y: Tensor,
    goal: Goal,
    budget: PhysicalBudget,
    *,
    numbers: Tensor,
    seed: int,
) -> Photographed:
    """Send files x (N, C, H, W) through unseen ways of the channel, with true JPEG files.

    The ways depend on the row's number and the seed only, so that clean, noisy and adversarial
    pictures go the same ones.
    """
    digital = goal.reached(target.predict(x))
    reached, right = torch.zeros(len(x)), torch.zeros(len(x))
    for part in torch.arange(len(x)).split(PART):
        streams = row_streams(seed, numbers[part], "unseen ways")
        ways = budget.channel.sample(DRAWS, streams, tuple(x.shape[1:]))
        photos = budget.channel.develop(x[part], ways).flatten(0, 1)
        logits = target.predict(photos, batch=1000)
        each = part.repeat_interleave(DRAWS)
        hits = goal[each].reached(logits).view(-1, DRAWS)
        kept = (logits.argmax(1) == y[each]).view(-1, DRAWS)
        reached[part], right[part] = hits.float().mean(1), kept.float().mean(1)
    return Photographed(x, digital, reached, right)


def _goal(budget: PhysicalBudget, samples: Samples, numbers: Tensor, seed: int) -> Goal:
    match budget.wish:
        case "misclassify":
            return Misclassify(samples.y)
        case "become":
            other = row_streams(seed, numbers, "class to become").integers(samples.classes - 1, 1).flatten()
            return Become(other + (other >= samples.y).long())
    assert_never(budget.wish)


def _attacked(
    entry: Entry, case: Case, budget: PhysicalBudget, bench: Bench, x: Tensor, goal: Goal,
    numbers: Tensor, tick: Tick,
) -> tuple[Tensor, Ledger]:  # fmt: skip
    ledger, device = Ledger.empty(len(x)), bench.target.device
    oracle = entry.access(bench.prepared, ledger)
    shards, parts = torch.arange(len(x)).split(SHARD), []
    for i, part in enumerate(shards):
        made = entry.run(
            oracle[part], x[part].to(device), goal[part].to(device), budget,
            rng=row_streams(case.seed, numbers[part], entry.id), **case.params,
            tick=lambda step, total, values, i=i: tick(i * total + step, len(shards) * total, values),
        )  # fmt: skip
        parts.append(made.to(x.device))
    return torch.cat(parts) if parts else x.clone(), ledger


def _bystanders(
    case: Case, budget: PhysicalBudget, bench: Bench, samples: Samples, numbers: Tensor, goal: Goal
) -> tuple[Photographed, Photographed]:
    """Photograph the clean pictures, and ones with a random change of the same size, once for all cases."""
    name = f"photographs {budget.model_dump_json()} {case.rows} {case.seed}"
    if name not in bench.cache:
        rng = row_streams(case.seed, numbers, "random change")
        noisy = eight_bit(random_change(samples.x, budget, rng), samples.x, budget)
        with seeded(seed_of(case.seed, name), bench.target.device):
            bench.cache[name] = tuple(
                photograph(
                    bench.target, x, samples.y, goal, budget, numbers=numbers, seed=case.seed
                )
                for x in (samples.x, noisy)
            )  # fmt: skip
    found: tuple[Photographed, Photographed] = bench.cache[name]
    return found


def random_change(x: Tensor, budget: PhysicalBudget, rng: RowGenerator) -> Tensor:
    """Spend a budget at random: the largest noise of the ball, or stickers of random colours."""
    match budget:
        case Print():
            return linear_optimum(x, rng.normal(*x.shape[1:]).to(x), budget.norm, budget.eps)
        case Sticker():
            height, width = x.shape[2:]
            pixels = budget.pixels(height, width)
            tall = max(1, min(height, round(pixels**0.5)))
            wide = min(width, pixels // tall)
            places = rng.uniform(2)
            top, left = ((places * torch.tensor([height - tall + 1, width - wide + 1])).long()).unbind(1)
            rows, columns = torch.arange(height), torch.arange(width)
            down = (rows >= top[:, None]) & (rows < top[:, None] + tall)
            across = (columns >= left[:, None]) & (columns < left[:, None] + wide)
            covered = down[:, None, :, None] & across[:, None, None, :]
            return torch.where(covered.to(x.device), rng.uniform(*x.shape[1:]).to(x), x)
    assert_never(budget)


def eight_bit(x_adv: Tensor, x: Tensor, budget: PhysicalBudget) -> Tensor:
    """Round what was changed to the 256 levels of a picture file, inside an linf ball."""
    levels = (x_adv * 255).round()
    if isinstance(budget, Print) and budget.norm == "linf":
        slack = 1e-4  # of a level: keeps x + eps itself when both lie on the grid
        low, high = ((x - budget.eps) * 255 - slack).ceil(), ((x + budget.eps) * 255 + slack).floor()
        levels = torch.where(low <= high, levels.clamp(min=low, max=torch.maximum(low, high)), levels)
    return torch.where(x_adv == x, x, (levels / 255).clamp(0, 1))


def _legal(x_adv: Tensor, x: Tensor, budget: PhysicalBudget) -> Tensor:
    """Tell which candidates are in the box and keep the budget, (N,) bool."""
    inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    match budget:
        case Print():
            room = budget.eps * (1 + 1e-6) + rounding(x, budget.norm)
            return inside & (size((x_adv - x).double(), budget.norm) <= room)
        case Sticker():
            return inside & (size((x_adv - x).double(), "l0") <= budget.pixels(*x.shape[2:]))
    assert_never(budget)


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1))


def _metrics(found: Photographed, correct: Tensor, clean_right: Tensor) -> dict[str, Estimate]:
    """Shares over all rows, and over the rows whose clean file is classified correctly.

    Rows that are wrong as files are not attacked; their clean photographs count in the accuracy.
    """
    right = clean_right.clone()
    right[correct] = found.right
    won = found.digital
    undone = (1 - found.reached) * won
    return {
        "robust_accuracy": mean_share(right.numpy()),
        "success_rate": mean_share(found.reached.numpy()),
        "digital_success_rate": share(int(won.sum()), len(won)),
        "destruction_rate": mean_share((1 - found.reached[won]).numpy()),
        "success_undone": mean_share(undone.numpy()),
    }


def _spent(ledger: Ledger) -> Spent:
    if not len(ledger.queries):
        return Spent()
    return Spent(
        queries_mean=float(ledger.queries.double().mean()),
        queries_max=int(ledger.queries.max()),
        gradients_mean=float(ledger.gradients.double().mean()),
        gradients_max=int(ledger.gradients.max()),
    )


def _flags(
    made: Tensor, legal: Tensor, metrics: dict[str, Estimate], baseline: dict[str, Estimate]
) -> tuple[Flag, ...]:
    flags = []
    if not legal.all():
        detail = f"{int((~legal).sum())} candidates left the budget or [0, 1]"
        flags.append(Flag(code="budget-exceeded", detail=detail))
    if not made.isfinite().all():
        flags.append(Flag(code="nan-output", detail="the attack returned values that are not numbers"))
    if baseline["success_rate"].low > metrics["success_rate"].high:
        flags.append(Flag(code="baseline-beats-attack", detail="a random change of equal size fools more"))
    return tuple(flags)


def _evidence(
    samples: Samples, numbers: Tensor, correct: Tensor, clean: Photographed, todo: Tensor,
    found: Photographed, target: Classifier,
) -> dict[str, Tensor]:  # fmt: skip
    x_adv, right = samples.x.clone(), clean.right.clone()
    x_adv[todo], right[todo] = found.x, found.right
    reached = torch.zeros(len(samples))
    reached[todo] = found.reached
    # those that survive the channel best come first
    order = found.reached.argsort(descending=True, stable=True)
    show = order[found.digital[order]][:GALLERY]
    return {
        "rows": numbers,
        "y": samples.y,
        "clean_correct": correct,
        "standing": correct & (right >= 0.5),
        "x_adv": x_adv,
        "right_in_photographs": right,
        "clean_right_in_photographs": clean.right,
        "success_in_photographs": reached,
        "gallery_x": samples.x[todo[show]],
        "gallery_adv": found.x[show],
        "gallery_y": samples.y[todo[show]],
        "gallery_pred": target.predict(found.x[show]).argmax(1),
    }
