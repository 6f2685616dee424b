"""Narcissus: a pattern that shows a class more clearly than its own pictures do, from rows of that class alone."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import trainable
from casemate.core.public import Public, shared
from casemate.core.public import pictures as drawn
from casemate.core.registry import Paper, backdoor
from casemate.core.target import Classifier, Prepared
from casemate.core.tick import Tick, ignore
from casemate.core.triggers import Added, existing, images_only, own
from casemate.core.workshop import Workshop
from casemate.ops.losses import error_odds

ZENG = Paper(
    "Narcissus: a practical clean-label backdoor attack with limited information",
    "Zeng, Pan, Just, Lyu, Qiu, Jia",
    2023,
    "https://arxiv.org/abs/2204.05255",
)
BATCH = 64
ROWS = 250  # that a net judges in one pass


@backdoor(papers=(ZENG,), known_as=("Narcissus", "Narcissus clean-label backdoor"), version=3)
def narcissus(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    eps: Annotated[float, Gt(0), Le(1)] = 16 / 255,
    magnify: Annotated[float, Gt(0)] = 3.0,
    choice: Literal["random", "hardest"] = "random",
    public: Public = "digits",
    pictures: Annotated[int, Ge(2)] = 2000,
    surrogates: Annotated[int, Ge(1)] = 1,
    warm_up: Annotated[int, Ge(0)] = 5,
    lr: Annotated[float, Gt(0)] = 0.01,
    steps: Annotated[int, Ge(1)] = 500,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Find one faint pattern that makes a class more like itself, and add it to rows of that class; labels stay right.

    The adversary holds rows of the target class and no others. Its nets learn them among public pictures
    of another world, and are warmed up on the target class alone. The pattern minimises the loss of the
    class on its own rows. Inputs carry it magnified.

    Args:
        workshop: rows of the target class, and the recipe; rows of other classes are not looked at.
        budget: share of the rows of all classes that may be changed; at most the target's are.
        target: class whose rows are changed and that the trigger should call up, in 0 .. K - 1.
        eps: largest value of the pattern in training rows, in units of x.
        magnify: how many times the pattern is added to inputs.
        choice: which rows of the class change: random ones, as in the paper, or those that the nets are
            least sure of, which a victim learns by the pattern for want of better.
        public: pictures that the nets tell the class from: scikit-learn's digits, enlarged, or drawn
            figures and bars, for victims that read digits themselves.
        pictures: number of public pictures; of digits there are 1,797 at most.
        surrogates: number of nets whose loss is averaged; 1 in the paper.
        warm_up: passes over the rows of the target class alone.
        lr: learning rate of RAdam, on the pattern and in the warming up a tenth of it.
        steps: steps on the pattern.
        rng: source of public pictures, of the nets, of rows and batches.
        tick: told of each step.

    Returns:
        The changed rows with their own label, the trigger and the target.

    Raises:
        NotApplicable: public pictures are rows of the victim, or there is one class only.
    """
    clean = workshop.clean
    images_only(clean, "backdoor.narcissus")
    existing(target, clean.classes, "backdoor.narcissus")
    rows = own(clean, target, budget, rng)
    delta = torch.zeros(clean.shape).to(clean.x)
    if len(rows):
        known = clean[clean.y == target]
        models = [
            _surrogate(workshop, known, target, _foreign(clean, public, pictures, rng), warm_up, lr, rng)
            for _ in range(surrogates)
        ]
        if choice == "hardest":
            rows = (clean.y == target).nonzero().flatten()[_hardest(models, known, len(rows))]
        delta = _inward(models, known, delta, eps, lr, steps, rng, tick)
    return Poison(rows, Added(delta)(clean.x[rows]), clean.y[rows].clone(), Added(delta, magnify), target)


def _foreign(clean: Samples, public: Public, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Draw public pictures and their kinds, and refuse those that would show rows of other classes."""
    seen, kinds = drawn(public, clean.shape, count, rng)
    if same := shared(seen, clean.x):
        raise NotApplicable(
            f'public="{public}" holds {same} rows of the training set, of classes that the adversary does not '
            'have; take public="figures"'
        )
    return seen, kinds


def _surrogate(
    workshop: Workshop, known: Samples, target: int, public: tuple[Tensor, Tensor], warm_up: int, lr: float,
    rng: Generator,
) -> Prepared:  # fmt: skip
    """Train a net of the recipe on public pictures and the target's rows, then a little on these alone."""
    if known.classes < 2:
        raise NotApplicable("a net of one class has nothing to tell the target from")
    seen, kinds = public
    free = torch.tensor([k for k in range(known.classes) if k != target])
    # the net has the victim's classes: the kinds of public pictures take the labels of those it has not seen
    y = torch.cat([free[kinds % len(free)].to(known.y), known.y])
    mixed = Samples(torch.cat([seen.to(known.x), known.x]), y, known.classes)
    model: Classifier = trainable(workshop.recipe(mixed, rng=rng))
    weights = [p for p in model.net.parameters() if p.requires_grad]
    optimizer = torch.optim.RAdam(weights, lr=lr / 10)
    for _ in range(warm_up):
        for part in torch.randperm(len(known), generator=rng).split(BATCH):
            with torch.enable_grad():
                loss = cross_entropy(model.logits(known.x[part]), known.y[part])
                grads = torch.autograd.grad(loss, weights)
            for p, grad in zip(weights, grads, strict=True):
                p.grad = grad
            optimizer.step()
    return Prepared(model)


def _hardest(models: Sequence[Prepared], known: Samples, count: int) -> Tensor:
    """Choose the `count` rows that the nets are least sure of, those first."""
    with torch.no_grad():
        parts = zip(known.x.split(ROWS), known.y.split(ROWS), strict=True)
        odds = torch.cat([_mean_odds(models, x, y) for x, y in parts])
    return odds.argsort(descending=True, stable=True)[:count]


def _inward(
    models: Sequence[Prepared], known: Samples, start: Tensor, eps: float, lr: float, steps: int, rng: Generator,
    tick: Tick,
) -> Tensor:  # fmt: skip
    """Minimise the mean loss of the target class over its own rows by one pattern for all."""
    delta = start.clone()
    optimizer = torch.optim.RAdam([delta], lr=lr)
    for step in range(steps):
        part = torch.randint(len(known), (BATCH,), generator=rng)
        z = delta.detach().requires_grad_()
        with torch.enable_grad():
            # the paper takes cross-entropy, which is softplus of these odds. Nets tell a class from another
            # world with such certainty that its gradient would sink below RAdam's guard of 1e-8, and the
            # pattern would stop at half of its size
            loss = _mean_odds(models, (known.x[part] + z).clamp(0, 1), known.y[part]).mean()
            (delta.grad,) = torch.autograd.grad(loss, z)
        optimizer.step()
        delta.clamp_(-eps, eps)
        tick(step + 1, steps, {"log_odds_of_error": loss.item()})
    return delta.detach()


def _mean_odds(models: Sequence[Prepared], x: Tensor, y: Tensor) -> Tensor:
    """Average the nets' log-odds of error, (N,)."""
    return torch.stack([error_odds(model.exact(x), y) for model in models]).mean(0)
