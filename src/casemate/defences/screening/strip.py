"""STRIP: inputs whose class survives whatever is laid over them."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Generator, Tensor

from casemate.core.compiled import compile_forward, worth_compiling
from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, screening
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.ops.groups import best_cut

GAO = Paper(
    "STRIP: a defence against trojan attacks on deep neural networks",
    "Gao, Xu, Wang, Chen, Ranasinghe, Nepal",
    2019,
    "https://arxiv.org/abs/1902.06531",
)

ODD = 10  # times as many rows below the threshold as usual make a class suspicious


@screening(papers=(GAO,), known_as=("STRIP", "strong intentional perturbation"), against=("backdoor",))
def strip(
    model: Classifier,
    data: Samples,
    /,
    *,
    overlays: Annotated[int, Ge(1)] = 16,
    frr: Annotated[float, Gt(0), Lt(1)] = 0.01,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Drop the rows whose class the model still sees after other rows were added to them.

    A trigger outvotes whatever is laid over it, so that the predictions for a marked row hardly vary:
    their mean entropy is low. The paper looks at inputs as they are served and takes its threshold
    from clean ones (`triggered` does so). Of a training set nobody knows what is clean: here a class
    is measured against the rows of all other classes, which are clean if a single class is attacked.
    Where far too many rows of a class lie below that threshold, it is raised to the gap between the
    class's marked and clean rows, since a few marked rows left over would keep the backdoor alive.

    A trigger that gives way to what is laid over it, a faint one or one that asks for all of itself,
    is not seen; and bright images leave no room for anything to be added.

    Args:
        model: classifier trained on `data`.
        data: training set that may be poisoned.
        overlays: rows that are added to each row, one at a time; the paper has 100, which ranks
            rows hardly better here.
        frr: share of clean rows that may be taken for marked ones (false rejection rate), in (0, 1).
        rng: source of the overlays.
        tick: called after each overlay with the mean entropy so far.

    Returns:
        The rows to keep, (N,) bool.

    Raises:
        NotApplicable: there are rows of one class only.
    """
    return suspicion(model, data, overlays=overlays, frr=frr, rng=rng, tick=tick) <= 1


def suspicion(
    model: Classifier,
    data: Samples,
    /,
    *,
    overlays: int = 16,
    frr: float = 0.01,
    rng: Generator,
    tick: Tick = ignore,
) -> Tensor:
    """Divide the threshold of each row's class by the row's entropy, (N,); above 1 is suspicious."""
    if len(data.y.unique()) < 2:
        raise NotApplicable("STRIP measures a class against the others, and there are no two classes")
    found = entropies(model, data.x, data.x, overlays=overlays, rng=rng, tick=tick)
    # entropies are at least 0: where even a threshold is 0, no row lies below it
    found = found.clamp(min=torch.finfo(found.dtype).tiny)
    scores = torch.zeros_like(found)
    for label in data.y.unique():
        own = data.y == label
        scores[own] = _threshold(found[own], found[~own].quantile(frr), frr) / found[own]
    return scores


def _threshold(own: Tensor, usual: Tensor, frr: float) -> Tensor:
    """Entropy below which rows of a class with entropies `own` (N,) are dropped, `usual` or more."""
    if float((own < usual).double().mean()) <= ODD * frr:
        return usual
    below = best_cut(own)[1]
    # rows next above the cut are kept: they are at it, not below
    return torch.maximum(usual, own.sort().values[min(below, len(own) - 1)])


def triggered(
    model: Classifier,
    x: Tensor,
    clean: Tensor,
    /,
    *,
    overlays: int = 16,
    frr: float = 0.01,
    rng: Generator,
) -> Tensor:
    """Tell which inputs at serving time carry a trigger, as in the paper.

    Args:
        model: classifier that may have a backdoor.
        x: inputs (N, *S) that were sent to it.
        clean: inputs (M, *S) that are known to be clean: they are laid over, and set the threshold.
        overlays: clean inputs that are added to each input.
        frr: share of clean inputs that may be refused, in (0, 1).
        rng: source of the overlays.

    Returns:
        The inputs to refuse, (N,) bool.
    """
    usual = entropies(model, clean, clean, overlays=overlays, rng=rng)
    return entropies(model, x, clean, overlays=overlays, rng=rng) < usual.quantile(frr)


def entropies(
    model: Classifier,
    x: Tensor,
    pool: Tensor,
    /,
    *,
    overlays: int,
    rng: Generator,
    batch: int = 250,
    tick: Tick = ignore,
) -> Tensor:
    """Mean entropy, in nats, of the predictions for x (N, *S) with rows of `pool` added, (N,)."""
    prepared = Prepared(model)
    if worth_compiling(model.net, overlays * len(x)):
        prepared.fast = compile_forward(prepared, x[:64])
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in range(overlays):
        over = torch.randint(len(pool), (len(x),), generator=rng).to(x.device) if len(x) else total.long()
        parts = [
            # both at full weight, as in the authors' code: halves would fade the trigger
            prepared.quick((part + pool[rows]).clamp(0, 1).to(model.device)).to(x.device)
            for part, rows in zip(x.split(batch), over.split(batch), strict=True)
            if len(part)
        ]
        if parts:
            total += torch.distributions.Categorical(logits=torch.cat(parts).double()).entropy()
        tick(step + 1, overlays, {"entropy": float(total.mean()) / (step + 1)})
    return total / overlays
