"""Poisoning with influence functions: move training rows so that the retrained head errs on the aim."""

from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from casemate.core.data import Poison, Samples
from casemate.core.features import Halves, halves
from casemate.core.heads import L2, fit_head
from casemate.core.registry import Paper, targeted
from casemate.core.tampering import Tampering
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Aims, Poisons, Workshop
from casemate.ops import logistic
from casemate.ops.influence import Inverse, probe_gradient, solve

CHUNK = 500  # rows whose gradients are taken at a time


@targeted(
    papers=(
        Paper(
            "Understanding black-box predictions via influence functions",
            "Koh, Liang",
            2017,
            "https://arxiv.org/abs/1703.04730",
        ),
    ),
    known_as=("Poisoning attack using influence function", "Influence-function training-set attack"),
)
def influence(
    workshop: Workshop,
    aims: Aims,
    budget: Tampering,
    /,
    *,
    inverse: Inverse = "exact",
    step: Annotated[float, Gt(0), Le(1)] = 0.04,
    steps: Annotated[int, Ge(1)] = 100,
    stop: Annotated[float, Gt(0), Le(1)] = 0.6,
    rng: Generator,
    tick: Tick = ignore,
) -> Poisons:
    """Change the training rows with most influence on the aim, and retrain the head after every step.

    A row z moved by d changes the aim's loss by -grad L(aim)^T H^-1 (d/dx grad L(z)) d / N. Each step
    follows its sign through the frozen extractor; then the head is fitted again. An aim is left alone
    once it has the wished class with probability `stop`; each keeps its best rows of all steps.

    Args:
        workshop: what the adversary knows; the first of its surrogates is taken for the victim.
        aims: what shall be given which class.
        budget: how many rows may change and how far.
        inverse: how H^-1 is applied: "exact" (Cholesky, float64), "cg" (conjugate gradients) or "ekfac"
            (Kronecker factors with corrected eigenvalues).
        step: length of a step, as a share of eps.
        steps: number of steps.
        stop: probability of the wished class, in (0, 1], at which an aim counts as reached.
        rng: not used; the method draws nothing.
        tick: told of each step.

    Returns:
        One poison per aim.
    """
    clean, count = workshop.clean, min(budget.poisons, len(workshop.clean))
    if not len(aims) or count == 0:
        return [Poison(clean.y[:0], clean.x[:0], clean.y[:0]) for _ in range(len(aims))]
    model = halves(workshop.surrogates(1)[0])
    with torch.no_grad():
        known = model.known(clean.x).double()
        probe = model.known(aims.x).double()
    many, y, classes = len(aims), clean.y.expand(len(aims), -1), clean.classes
    features = known.repeat(many, 1, 1)
    weights = fit_head(features[:1], y[:1], classes).expand(many, -1, -1)
    rows = _most_influential(model, clean, aims, features, weights, probe, inverse, count)
    base, labels = clean.x[rows], clean.y[rows]  # (T, M, *S), (T, M)
    x, best = base.clone(), base.clone()
    reached = torch.zeros(many, dtype=probe.dtype, device=probe.device)
    for i in range(steps):
        todo = (reached < stop).nonzero().flatten()
        if not len(todo):
            break
        along = _along(features[todo], weights[todo], probe[todo], aims.wish[todo], inverse)
        pull = _pull(model, x[todo].flatten(0, 1), labels[todo], weights[todo], along)
        moved = x[todo] + step * budget.eps * pull.view_as(x[todo]).sign()
        moved = torch.maximum(torch.minimum(moved, base[todo] + budget.eps), base[todo] - budget.eps).clamp(
            0, 1
        )
        x[todo] = moved
        with torch.no_grad():
            changed = model.known(moved.flatten(0, 1)).double()
        now = features[todo].scatter(
            1, rows[todo][..., None].expand(-1, -1, features.shape[2]), changed.view(len(todo), count, -1)
        )
        fitted = fit_head(now, y[todo], classes, start=weights[todo])
        features[todo] = now
        weights = weights.index_copy(0, todo, fitted)
        given = _probability(probe[todo], fitted, aims.wish[todo])
        better = given > reached[todo]
        best[todo[better]], reached[todo[better]] = moved[better], given[better]
        tick(i + 1, steps, {"mean_probability": float(reached.mean())})
    return [Poison(rows[t], best[t], labels[t]) for t in range(many)]


def _probability(probe: Tensor, weights: Tensor, wish: Tensor) -> Tensor:
    told = logistic.scores(probe[:, None], weights)[:, 0].softmax(-1)
    return told.gather(1, wish[:, None])[:, 0]


def _along(features: Tensor, weights: Tensor, probe: Tensor, wish: Tensor, inverse: Inverse) -> Tensor:
    """Compute H^-1 grad L(aim).

    The paper raises the loss of the aim's own class; here that of the class wished for is lowered,
    which is the same for two classes and for more of them says which.
    """
    return solve(features, weights, probe_gradient(probe, wish, weights), l2=L2, inverse=inverse)


def _pull(model: Halves, x: Tensor, labels: Tensor, weights: Tensor, along: Tensor) -> Tensor:
    """Differentiate <grad L(z), H^-1 grad L(aim)> by x (T * M, *S), the direction that lowers the aim's loss.

    Upweighting z moves the weights by -H^-1 grad L(z), hence the aim's loss by minus this product.
    """
    many, count = labels.shape
    found = []
    owner = torch.arange(many, device=x.device).repeat_interleave(count)
    for part, who, label in zip(
        x.split(CHUNK), owner.split(CHUNK), labels.flatten().split(CHUNK), strict=True
    ):
        z = part.detach().requires_grad_()
        with torch.enable_grad():
            inputs = model.features(z).double()[:, None]  # (n, 1, D)
            off = logistic.row_gradients(inputs, label[:, None], weights[who])[:, 0]
            product = (off * (logistic.with_ones(inputs) @ along[who].mT)[:, 0]).sum()
            found.append(torch.autograd.grad(product, z)[0])
    return torch.cat(found)


def _most_influential(
    model: Halves, clean: Samples, aims: Aims, features: Tensor, weights: Tensor, probe: Tensor,
    inverse: Inverse, count: int,
) -> Tensor:  # fmt: skip
    """Choose each aim's rows (T, M) by the sum of the sizes of their influence, as the paper does."""
    along = _along(features, weights, probe, aims.wish, inverse)
    chosen = []
    for t in range(len(aims)):
        pull = _pull(model, clean.x, clean.y[None], weights[t : t + 1], along[t : t + 1])
        chosen.append(pull.flatten(1).abs().sum(1).topk(count).indices)
    return torch.stack(chosen)
