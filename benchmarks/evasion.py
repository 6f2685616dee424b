"""Compare evasion attacks with other libraries: time, passes and strength.

python benchmarks/evasion.py               everything, about an hour
python benchmarks/evasion.py --tiny        the same contests in small, to see that they run
python benchmarks/evasion.py --only square
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product

import peers
import torch
from contest import BATCH, Entrant, Score, Task, contest
from ours import ours
from torch import Tensor, nn

from casemate.assess.families.evasion import SHARD
from casemate.assess.plan import AUTOATTACK, Ask
from casemate.builtin.data import fashion_mini
from casemate.builtin.target import fashion_cnn, fashion_cnn_robust

EPS = 0.1


@dataclass(frozen=True)
class Sizes:
    """How much is attacked, and for how long."""

    images: int = 1000
    few: int = 200
    steps: int = 40
    queries: int = 1000
    l2_steps: int = 100
    searches: int = 5
    jumps: int = 10
    decided: int = 50
    autoattack: tuple[int, int] = (100, 5000)  # steps, queries
    repeats: int = 3


TINY = Sizes(
    images=16,
    few=8,
    steps=4,
    queries=30,
    l2_steps=10,
    searches=2,
    jumps=2,
    decided=8,
    autoattack=(6, 40),
    repeats=1,
)


@dataclass(frozen=True)
class Goal:
    """What was to be reached, what was measured, and whether that holds."""

    text: str
    measured: str
    holds: bool


@dataclass
class Round:
    """One contest and the goals that it was held for."""

    task: Task
    scores: list[Score]
    goals: list[Goal] = field(default_factory=list)

    @property
    def own(self) -> Score:
        """Our score as `casemate assess` would have it, which comes first."""
        return self.scores[0]

    @property
    def all_own(self) -> list[Score]:
        """Our scores in every mode that ran."""
        return [s for s in self.scores if not s.skipped and s.name.startswith("casemate")]

    @property
    def rivals(self) -> list[Score]:
        """The scores of the peers that ran."""
        return [s for s in self.scores if not s.skipped and not s.name.startswith("casemate")]


class Scaled(nn.Module):
    """A net whose logits are multiplied: the same decisions, and saturated cross-entropy."""

    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits times the factor."""
        return self.net(x) * self.factor


@cache
def _nets() -> dict[str, nn.Module]:
    plain, robust = (t.net.eval().requires_grad_(False) for t in (fashion_cnn(), fashion_cnn_robust()))
    return {"plain": plain, "robust": robust, "robust, logits x 100": Scaled(robust, 100.0).eval()}


def _task(title: str, net: str, n: int, norm: str = "linf", eps: float = EPS) -> Task:
    test = fashion_mini()[1]
    # the rows come class by class: every k-th one
    rows = torch.arange(n) * (len(test) // n)
    return Task(f"{title}, {net} net, {n} images", _nets()[net], test.x[rows], test.y[rows], norm, eps)


def pgd(sizes: Sizes) -> list[Round]:
    """PGD in linf on three nets: at least 2.5 times as fast as the fastest, equal in strength.

    All pass as many images at a time: first as many as suit the peers, then as many as assess does.
    """
    alpha = 2.5 * EPS / sizes.steps
    asks = [Ask(method="evasion.pgd", params={"steps": sizes.steps, "step_size": alpha})]
    entrants = [
        Entrant("casemate", ours(asks, bfloat16=True)),
        Entrant("casemate, float32 gradients", ours(asks)),
        Entrant("torchattacks", peers.torchattacks_pgd(sizes.steps, alpha)),
        Entrant("Foolbox", peers.foolbox_pgd(sizes.steps, alpha)),
        Entrant("CleverHans", peers.cleverhans_pgd(sizes.steps, alpha)),
        Entrant("ART", peers.art_pgd(sizes.steps, alpha)),
    ]
    rounds = []
    for batch, net in product((BATCH, SHARD), _nets()):
        task = _task(f"PGD-{sizes.steps}, linf {EPS}, {batch} at a time", net, sizes.images)
        task = replace(task, batch=batch)
        rounds.append(Round(task, contest(task, entrants, sizes.repeats)))
        _faster(rounds[-1], 2.5)
        if "x" in net:
            gap = rounds[-1].own.standing - rounds[-2].own.standing
            text = "robust accuracy at most 0.3 points above that on the same net unscaled"
            rounds[-1].goals.append(Goal(text, f"{100 * gap:+.1f} points", gap <= 0.003))
        else:
            _as_strong(rounds[-1], 0.003)
    return rounds


def square(sizes: Sizes) -> list[Round]:
    """Square in linf: at least 2.5 times as fast as the fastest, 6 times as fast as ART."""
    queries = sizes.queries
    entrants = [
        Entrant("casemate", ours([Ask(method="evasion.square", params={"queries": queries})], compiled=True)),
        Entrant("torchattacks", peers.torchattacks_square(queries)),
        Entrant("AutoAttack's own", peers.official_square(queries)),
        Entrant("ART", peers.art_square(queries)),
    ]
    task = _task(f"Square, {queries} queries, linf {EPS}", "robust", sizes.few)
    result = Round(task, contest(task, entrants, sizes.repeats))
    _faster(result, 2.5)
    _faster(result, 6.0, "ART")
    # two images of 200: two random searches differ by as much
    _as_strong(result, 0.01)
    return [result]


def nearest(sizes: Sizes) -> list[Round]:
    """Minimum-norm L2 attacks with equal passes: DDN, and Carlini and Wagner's."""
    rounds = []
    for net in ("plain", "robust"):
        task = _task(f"DDN, {sizes.l2_steps} steps", net, sizes.few, "l2", math.inf)
        ddn = [Ask(method="evasion.ddn", params={"steps": sizes.l2_steps})]
        entrants = [Entrant("casemate", ours(ddn)), Entrant("Foolbox", peers.foolbox_ddn(sizes.l2_steps))]
        rounds.append(Round(task, contest(task, entrants, sizes.repeats)))
        _as_near(rounds[-1])
        searches, steps = sizes.searches, sizes.l2_steps
        task = replace(task, title=task.title.replace("DDN,", f"Carlini-Wagner, {searches} searches of"))
        settings = {"searches": searches, "steps": steps}
        entrants = [
            Entrant("casemate", ours([Ask(method="evasion.carlini_wagner", params=settings)])),
            Entrant("CleverHans", peers.cleverhans_cw(searches, steps, 0.01)),
        ]
        rounds.append(Round(task, contest(task, entrants, sizes.repeats)))
        _as_near(rounds[-1])
    return rounds


def decisions(sizes: Sizes) -> list[Round]:
    """HopSkipJump with equal steps and no more queries: at least twice as fast, examples as near."""
    rounds = []
    for net, norm in (("plain", "l2"), ("robust", "l2"), ("plain", "linf")):
        task = _right(_task(f"HopSkipJump, {norm}, {sizes.jumps} steps", net, sizes.decided, norm, math.inf))
        jumps = [Ask(method="evasion.hop_skip_jump", params={"steps": sizes.jumps})]
        entrants = [
            Entrant("casemate", ours(jumps, compiled=True)),
            Entrant("Foolbox", peers.foolbox_hop_skip_jump(sizes.jumps, norm)),
            Entrant("ART", peers.art_hop_skip_jump(sizes.jumps, norm)),
        ]
        rounds.append(Round(task, contest(task, entrants, sizes.repeats)))
        _as_near(rounds[-1], 2.0)
        _no_more_queries(rounds[-1])
    return rounds


def _right(task: Task) -> Task:
    """The task without images that the net gets wrong, on which some peers never end."""
    right = task.net(task.x).argmax(1) == task.y
    return replace(task, x=task.x[right], y=task.y[right])


def _no_more_queries(result: Round) -> None:
    if not result.rivals:
        return
    best = min(result.rivals, key=lambda s: s.forwards)
    ratio = result.own.forwards / best.forwards
    text = "no more queries than the thriftiest peer"
    result.goals.append(Goal(text, f"{ratio:.3f} times ({best.name})", ratio <= 1))


def autoattack(sizes: Sizes) -> list[Round]:
    """AutoAttack: our plan of the same name against its authors' code, at least twice as fast."""
    steps, queries = sizes.autoattack
    asks = [a.model_copy(update={"params": a.params | _length(a, steps, queries)}) for a in AUTOATTACK]
    task = _task(f"AutoAttack, linf {EPS}", "robust", sizes.few)
    entrants = [
        Entrant("casemate", ours(asks, compiled=True)),
        Entrant("AutoAttack's own", peers.official_autoattack(steps, queries)),
    ]
    result = Round(task, contest(task, entrants, sizes.repeats))
    _faster(result, 2.0)
    _as_strong(result, 0.002)
    return [result]


def _length(ask: Ask, steps: int, queries: int) -> dict[str, int]:
    return {"steps": steps} if "steps" in ask.params else {"queries": queries}


def missed_by_us(rounds: Sequence[Round]) -> Goal | None:
    """Find images that our plan leaves standing and that some peer fools on the same net.

    Images are told apart by their values, since contests differ in how many they use.
    """
    plans = [r for r in rounds if r.task.title.startswith("AutoAttack") and not r.own.skipped]
    if not plans:
        return None
    plan = plans[0]
    standing = plan.task.x[~plan.own.fooled]
    by: list[str] = []
    images = 0
    for image in standing:
        fools = [
            f"{rival.name} ({r.task.title.partition(',')[0]})"
            for r in rounds
            if r.task.net is plan.task.net and r.task.norm == "linf"
            for rival in r.rivals
            if bool((rival.fooled & (r.task.x == image).flatten(1).all(1)).any())
        ]
        images += bool(fools)
        by += fools
    names = ", ".join(sorted(set(by)))
    detail = f"{images} of {len(standing)} that stand" + (f", by {names}" if names else "")
    return Goal("no image that a peer fools is counted robust by our AutoAttack plan", detail, not images)


def _faster(result: Round, factor: float, than: str | None = None) -> None:
    rivals = [s for s in result.rivals if than in (None, s.name)]
    if not rivals:
        return
    best = min(rivals, key=lambda s: s.seconds)
    for own in result.all_own:
        ratio = best.seconds / own.seconds
        text = f"{own.name} at least {factor:g} times as fast as {than or 'the fastest peer'}"
        result.goals.append(Goal(text, f"{ratio:.1f} times ({best.name})", ratio >= factor))


def _as_strong(result: Round, slack: float) -> None:
    if not result.rivals:
        return
    best = min(result.rivals, key=lambda s: s.standing)
    for own in result.all_own:
        gap = own.standing - best.standing
        text = f"{own.name}: robust accuracy at most {100 * slack:g} points above the strongest peer's"
        result.goals.append(Goal(text, f"{100 * gap:+.1f} points ({best.name})", gap <= slack + 1e-9))


def _as_near(result: Round, factor: float = 1.0) -> None:
    if not result.rivals or result.own.skipped:
        return
    best = min(result.rivals, key=lambda s: s.median)
    ratio = result.own.median / best.median if best.median else math.nan
    text = f"median {result.task.norm} size no larger, to half a percent"
    result.goals.append(Goal(text, f"{ratio:.3f} times ({best.name})", ratio <= 1.005))
    _faster(result, factor)


CONTESTS: dict[str, Callable[[Sizes], list[Round]]] = {
    "pgd": pgd, "square": square, "nearest": nearest, "decisions": decisions, "autoattack": autoattack,
}  # fmt: skip


def table(result: Round) -> str:
    """Write a contest as Markdown."""
    near = math.isinf(result.task.eps)
    strength = f"still right %, median {result.task.norm}" if near else "robust accuracy %"
    lines = [
        f"### {result.task.title}",
        "",
        f"| library | CPU s | x ours | x floor | forwards, backwards per image | {strength} |",
        "|---|---|---|---|---|---|",
    ]
    for s in result.scores:
        if s.skipped:
            lines.append(f"| {s.name} | {s.skipped} | | | | |")
            continue
        quotient = "-" if result.own.skipped else f"{s.seconds / result.own.seconds:.2f}"
        achieved = f"{100 * s.standing:.1f}" + (f", {s.median:.3f}" if near else "")
        lines.append(
            f"| {s.name} | {s.seconds:.2f} | {quotient} | {s.seconds / s.floor:.2f} "
            f"| {s.forwards:.1f}, {s.backwards:.1f} | {achieved} |"
        )
    return "\n".join([*lines, "", *map(line, result.goals), ""])


def line(goal: Goal) -> str:
    """Write a goal as a line of a list."""
    return f"- {'reached' if goal.holds else 'MISSED'}: {goal.text}: {goal.measured}"


def run(sizes: Sizes, only: Sequence[str], say: Callable[[str], None]) -> list[Round]:
    """Hold contests, telling each as it ends."""
    rounds: list[Round] = []
    for name in only or CONTESTS:
        for result in CONTESTS[name](sizes):
            rounds.append(result)
            say(table(result))
    missed = missed_by_us(rounds)
    if missed:
        say(line(missed) + "\n")
    return rounds


def main() -> None:
    """Hold the contests asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=(), choices=CONTESTS)
    parser.add_argument("--tiny", action="store_true", help="small numbers, to see that everything runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(TINY if options.tiny else Sizes(), options.only, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
