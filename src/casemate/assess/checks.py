"""Reasons to distrust what attacks say about a target, found before and after they run."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from casemate.assess.families.evasion import PLAIN, ask, attempt, hooked
from casemate.assess.result import Flag
from casemate.core.adaptive import AUTO, Averaging, Hooks, matching, suspects
from casemate.core.data import Samples
from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle, Ledger, Prepared
from casemate.core.threat import Goal, Lp, Misclassify
from casemate.ops.norms import nonzero, per_row

# flags that forbid the outcome "holds": the attacks may have failed for the wrong reason
SERIOUS = frozenset(
    {
        "zero-gradient", "saturated-gradient", "randomised", "black-box-beats-white-box",
        "transfer-beats-white-box", "more-steps-hurt", "one-step-beats-many", "random-search-finds-more",
        "misleading-gradient", "large-eps-fails", "baseline-beats-attack", "nan-output", "budget-exceeded", "blind-baseline",
        "few-rows", "few-victims",
    }
)  # fmt: skip
ROWS = 64
DRAWS = 20  # draws of a random target in each gradient, and answers that judge each candidate
STEP = 0.01  # length of a finite difference, as the root mean square over the values of x


def inspect_outputs(target: Classifier, x: Tensor) -> list[Flag]:
    """Look at the target's answers to x: modes, probabilities, numbers, randomness."""
    flags = []
    noisy = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    if any(m.training and isinstance(m, noisy) for m in target.net.modules()):
        flags.append(
            Flag(
                code="batch-norm-train-mode",
                detail="the net came in training mode; a copy in evaluation mode is tested",
            )
        )
    first, second = target.predict(x), target.predict(x)
    if not first.isfinite().all():
        bad = int((~first.isfinite().all(1)).sum())
        flags.append(
            Flag(code="nan-output", detail=f"{bad} of {len(x)} inputs get values that are not numbers")
        )
    elif float((first - second).abs().max()) > 1e-4 * float(first.abs().max().clamp(min=1e-30)):
        flags.append(Flag(code="randomised", detail="two passes over the same inputs disagree"))
    return flags


def looks_like_probabilities(target: Classifier, x: Tensor) -> bool:
    """Tell whether the net returns probabilities where logits are expected."""
    out = target.predict(x)
    sums = out.sum(1)
    return bool(out.isfinite().all() and (out >= 0).all() and (sums - 1).abs().max() < 1e-3)


def adaptation(prepared: Prepared, x: Tensor, *, randomised: bool) -> tuple[Hooks, list[Flag]]:
    """Find how attacks must take gradients of a target, and say so.

    Gradients are averaged over draws where the target answers at random, over fewer where it averages
    itself, and go round layers that declare a stand-in or are found to stop them.
    """
    count = DRAWS if randomised else 1
    own = max((m.draws for m in prepared.net.modules() if isinstance(m, Averaging)), default=1)
    if randomised and own > 1:
        count = max(2, -(-DRAWS // own))
    if not prepared.target.differentiable:
        return Hooks(answers=count), []
    given = x[:8].to(prepared.target.device)
    round_ = matching(prepared, (AUTO,), given)
    flags = []
    if round_:
        named = ", ".join(f"'{path}'" for path in round_)
        flags.append(Flag(code="gradient-blocked", detail=f"layer {named} of {_of(prepared, round_)}"))
    random = [s.path for s in suspects(prepared, given) if s.kind == "random"]
    if randomised and random:
        inner = [p for p in random if not any(q.startswith(f"{p}.") for q in random)]
        named = ", ".join(f"'{path}'" for path in inner[:3])
        flags.append(Flag(code="random-layer", detail=f"layer {named}"))
    return Hooks(eot=count, answers=count, bpda=(AUTO,) if round_ else ()), flags


def _of(prepared: Prepared, paths: Sequence[str]) -> str:
    return ", ".join(sorted({f"type {type(prepared.net.get_submodule(p)).__name__}" for p in paths}))


def inspect_gradients(prepared: Prepared, samples: Samples, seed: int, hooks: Hooks = PLAIN) -> list[Flag]:
    """Try what must work on any differentiable classifier that can be attacked at all.

    Counts rows whose gradient is exactly zero or no number, compares gradients with finite differences,
    attacks in a ball that holds every image, and compares one step and few with many, and a random
    search with gradients. `hooks` say how gradients are taken.
    """
    prepared = prepared.precise()  # rough gradients are not what is asked about
    target = prepared.target
    plain = ask(target, samples.x, Misclassify(samples.y), hooks.answers, seed)
    right = (plain.label == samples.y).nonzero().flatten()[:ROWS]
    if not len(right) or not target.differentiable:
        return []
    x, goal = samples.x[right], Misclassify(samples.y[right])
    flags = []
    pgd = find("evasion.pgd")
    steered = hooked(pgd, prepared, hooks, x, seed)
    oracle, device = GradientOracle(steered, Ledger.empty(len(x))), target.device
    grad = oracle.gradient(x.to(device), goal.to(device)).grad
    # attacks take what is no number for zero
    zero = grad.nan_to_num(0, 0, 0).flatten(1).eq(0).all(1)
    if zero.any():
        flags.append(
            Flag(code="zero-gradient", detail=f"{int(zero.sum())} of {len(x)} rows have no gradient")
        )
    if not hooks.bpda:  # the gradient of a stand-in promises nothing about so short a way
        flags += _compare_with_differences(steered, x.to(device), goal.to(device), zero)

    def fooled(eps: float, steps: int, name: str = "evasion.pgd") -> Tensor:
        entry = find(name)
        counts = {"evasion.fgsm": {}, "evasion.square": {"queries": 10 * steps}}
        params = entry.validate(counts.get(name, {"steps": steps, "loss": "margin"}))
        budget = Lp(norm="linf", eps=eps)
        found = attempt(
            entry, prepared, x, goal, budget, params=params, numbers=right, seed=seed, hooks=hooks
        )
        return found.fooled

    share = float(fooled(1.0, 20).double().mean())
    if share < 0.95:
        flags.append(
            Flag(
                code="large-eps-fails", detail=f"in a ball that holds every input only {share:.0%} are fooled"
            )
        )
    few, many = fooled(0.1, 5), fooled(0.1, 20)
    if int(few.sum()) > int(many.sum()) + 0.05 * len(x):
        flags.append(
            Flag(
                code="more-steps-hurt",
                detail=f"5 steps fool {int(few.sum())} rows, 20 steps {int(many.sum())}",
            )
        )
    one = fooled(0.1, 1, "evasion.fgsm")
    if int(one.sum()) > int(many.sum()) + 0.05 * len(x):
        detail = f"one step fools {int(one.sum())} rows, 20 steps {int(many.sum())}"
        flags.append(Flag(code="one-step-beats-many", detail=detail))
    if target.outputs != "labels":
        missed = int((fooled(0.1, 20, "evasion.square") & ~many).sum())
        if missed >= 3 and missed > 0.05 * len(x):
            detail = f"200 random changes fool {missed} rows that 20 steps along gradients do not"
            flags.append(Flag(code="random-search-finds-more", detail=detail))
    return flags


def _compare_with_differences(steered: Prepared, x: Tensor, goal: Goal, zero: Tensor) -> list[Flag]:
    """Go a short way along each gradient and compare what the margin gains with what was promised."""
    oracle = GradientOracle(steered, Ledger.empty(len(x)))
    _, _, grad = oracle.gradient(x, goal, "margin")
    grad = grad.nan_to_num(0, 0, 0)
    length = STEP * x[0].numel() ** 0.5
    norms = grad.flatten(1).norm(dim=1)
    step = length * grad / per_row(nonzero(norms), grad)
    gain = goal.loss(oracle.logits(x + step), "margin") - goal.loss(oracle.logits(x - step), "margin")
    promised = 2 * length * norms
    alive = ~zero & (norms > 0) & gain.isfinite()
    if not bool(alive.any()):
        return []
    off = (gain - promised).abs()[alive] > 0.9 * promised[alive]
    share = float(off.double().mean())
    if share <= 0.5:
        return []
    detail = f"on {share:.0%} of the rows a short way along the gradient changes the scores quite otherwise"
    return [Flag(code="misleading-gradient", detail=detail)]


def black_box_wins(standing: Mapping[str, Tensor], white: Iterable[str], black: Iterable[str]) -> list[Flag]:
    """Compare rows that only attacks without gradients fooled with all rows that were fooled.

    A few such rows are chance; more than one in twenty of the fooled rows, and at least five, say
    that gradients mislead.
    """
    white_left = [standing[k] for k in white if k in standing]
    black_left = [standing[k] for k in black if k in standing]
    if not white_left or not black_left:
        return []
    after_white = torch.stack(white_left).all(0)
    after_all = torch.stack([*white_left, *black_left]).all(0)
    detail = "rows fell only to attacks without gradients"
    return _missed("black-box-beats-white-box", after_white, after_all, detail)


def transfer_wins(
    white: Sequence[Mapping[str, Tensor]], transferred: Sequence[Mapping[str, Tensor]]
) -> list[Flag]:
    """Compare rows that fell only to examples made on other models with all that were fooled.

    Each mapping is the evidence of one attack; white-box ones must have had at least the same ball. Only
    rows count that both sides attacked and that are right without an attack.
    """
    found = [*white, *transferred]
    count = 1 + max((int(e["rows"].max()) for e in found if len(e["rows"])), default=-1)
    right = torch.ones(count, dtype=torch.bool)
    for each in found:
        right[each["rows"]] &= each["clean_correct"]
    both = right & _attacked(white, count) & _attacked(transferred, count)
    after_white, after_all = _left(white, count)[both], _left(found, count)[both]
    detail = "rows fell only to examples made on other models"
    return _missed("transfer-beats-white-box", after_white, after_all, detail)


def _attacked(found: Sequence[Mapping[str, Tensor]], count: int) -> Tensor:
    tried = torch.zeros(count, dtype=torch.bool)
    for each in found:
        tried[each["rows"]] = True
    return tried


def _left(found: Sequence[Mapping[str, Tensor]], count: int) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    for each in found:
        left[each["rows"]] &= each["standing"]
    return left


def _missed(code: str, after_white: Tensor, after_all: Tensor, detail: str) -> list[Flag]:
    """Flag rows that gradients missed, unless they are so few that chance may have done it."""
    missed = int((after_white & ~after_all).sum())
    if missed >= 5 and missed > 0.05 * int((~after_all).sum()):
        return [Flag(code=code, detail=f"{missed} {detail}")]
    return []
