"""Reasons to distrust what attacks say about a target, found before and after they run."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from casemate.assess.families.evasion import attempt
from casemate.assess.result import Flag
from casemate.core.data import Samples
from casemate.core.registry import find
from casemate.core.target import Classifier, GradientOracle, Ledger, Prepared
from casemate.core.threat import Lp, Misclassify

# flags that forbid the outcome "holds": the attacks may have failed for the wrong reason
SERIOUS = frozenset(
    {
        "zero-gradient", "saturated-gradient", "randomised", "black-box-beats-white-box",
        "more-steps-hurt", "large-eps-fails", "baseline-beats-attack", "nan-output", "budget-exceeded",
        "blind-baseline", "few-rows", "few-victims",
    }
)  # fmt: skip
ROWS = 64


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


def inspect_gradients(prepared: Prepared, samples: Samples, seed: int) -> list[Flag]:
    """Try what must work on any differentiable classifier that can be attacked at all.

    Counts rows whose gradient is exactly zero or no number, attacks in a ball that holds every image, and
    compares few steps with many.
    """
    prepared = prepared.precise()  # rough gradients are not what is asked about
    target = prepared.target
    right = (target.predict(samples.x).argmax(1) == samples.y).nonzero().flatten()[:ROWS]
    if not len(right) or not target.differentiable:
        return []
    x, goal = samples.x[right], Misclassify(samples.y[right])
    flags = []
    oracle, device = GradientOracle(prepared, Ledger.empty(len(x))), target.device
    grad = oracle.gradient(x.to(device), goal.to(device)).grad
    # attacks take what is no number for zero
    zero = grad.nan_to_num(0, 0, 0).flatten(1).eq(0).all(1)
    if zero.any():
        flags.append(
            Flag(code="zero-gradient", detail=f"{int(zero.sum())} of {len(x)} rows have no gradient")
        )
    pgd = find("evasion.pgd")

    def fooled(eps: float, steps: int) -> Tensor:
        params = pgd.validate({"steps": steps, "loss": "margin"})
        budget = Lp(norm="linf", eps=eps)
        return attempt(pgd, prepared, x, goal, budget, params=params, numbers=right, seed=seed).fooled

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
    return flags


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
    only_black = int((after_white & ~after_all).sum())
    fooled = int((~after_all).sum())
    if only_black >= 5 and only_black > 0.05 * fooled:
        return [
            Flag(
                code="black-box-beats-white-box",
                detail=f"{only_black} rows fell only to attacks without gradients",
            )
        ]
    return []
