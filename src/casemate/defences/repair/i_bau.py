"""Adversarial unlearning of backdoors by implicit hypergradients."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from casemate.core.data import Samples
from casemate.core.errors import NotApplicable
from casemate.core.inversion import AT_ONCE
from casemate.core.recipe import one_cycle
from casemate.core.registry import Paper, repair
from casemate.core.target import Classifier, laid_out, reordered
from casemate.core.tick import Tick, ignore
from casemate.ops.implicit import hypergradient
from casemate.ops.norms import Norm, shrink, steepest
from casemate.ops.shifts import shifted

ZENG = Paper(
    "Adversarial unlearning of backdoors via implicit hypergradient",
    "Zeng, Chen, Park, Mao, Jin, Jia",
    2022,
    "https://arxiv.org/abs/2110.03735",
)
PERTURBED = 64  # rows of a step that are perturbed
CLEAN = 96  # and rows that are not; the more of them, the less accuracy is lost
AVERAGED = 0.3  # last share of the steps whose weights are averaged
MARK = 0.075  # values that a random mark changes, as a share of those of an input
ROWS = 8  # clean rows that a perturbation is judged by in one step of its search
FEW = 2  # and in the hypergradient, which differentiates twice
AFRESH = 10  # rounds after which perturbations are looked for from a new start
FIRST, LATER = 15, 2  # steps of that search: from a new start, and from those of the last round
RATE = 0.1  # step of the inner map that the hypergradient differentiates, as in the authors' code
Inner = Literal["class", "error"]


@repair(papers=(ZENG,), known_as=("I-BAU", "implicit backdoor adversarial unlearning"), version=4)
def i_bau(
    model: Classifier,
    clean: Samples,
    /,
    *,
    inner: Inner = "class",
    radius: Annotated[float, Gt(0)] = 2.5,
    sparse: Annotated[float, Ge(0), Le(1)] = 0.045,
    marks: Annotated[float, Ge(0), Le(1)] = 0.75,
    rounds: Annotated[int, Ge(1)] = 120,
    steps: Annotated[int, Ge(1)] = 4,
    iterations: Annotated[int, Ge(0)] = 1,
    kept: Annotated[float, Ge(0), Le(1)] = 0.9,
    shift: Annotated[int, Ge(0)] = 2,
    lr: Annotated[float, Gt(0)] = 3e-3,
    rng: Generator,
    tick: Tick = ignore,
) -> Classifier:
    """Find perturbations that mislead the model on all clean rows alike, and train until there are none.

    A trigger is a universal perturbation, so the worst universal perturbation of a ball is looked for and
    unlearnt, in rounds: min over weights, max over delta, of the loss at x + delta. The gradient by the
    weights takes into account that delta follows them, by the implicit function theorem and a fixed point.

    The paper looks for one delta that raises the loss most ("error"). On small nets that is some delta towards
    the widest class, and no trigger; one for each class, which lowers the loss of that class ("class"), finds
    it. The paper has one ball, in l2. Marks on some pixels, each as bright as can be, may be longer than what
    inputs withstand in other directions, and so there is a second set of perturbations, in l1, which change few
    values (`sparse`). Wide marks that win little, such as those of clean-label triggers, are what a search
    finds last; many of the perturbed rows get random marks instead (`marks`), which need none. Most of a batch
    is clean and learnt as the model knew it, for some hundred labels alone would cost accuracy, and the weights
    of the last steps are averaged. A larger `radius` or `sparse` removes more and costs more. Where inputs and
    classes are too many for a pass (1,000 classes of 3x224x224), some classes are searched and after ten rounds
    others, and it takes more `rounds` to see all.

    Args:
        model: classifier to be mended; it stays as it is.
        clean: data that the defender trusts, some hundred rows.
        inner: what perturbations aim at: "class", one for each class; "error", a single one as in the paper.
        radius: l2 norm of the perturbations, in units of x, whatever the size of inputs. The default was chosen for
            784 values, 0.09 for each on average; for as much of D values set 0.09 sqrt(D): 5 for 3x32x32.
        sparse: l1 norm of those that change few values, as a share of the values of an input, in [0, 1]; 0 leaves
            them out, as in the paper.
        marks: share of the perturbed rows that get a random mark instead, 7.5% of the values moved to 0 or 1, in
            [0, 1]; 0 as in the paper.
        rounds: searches for perturbations, each followed by `steps` steps of training.
        steps: steps of training in a round.
        iterations: fixed-point iterations of the hypergradient; 0 takes perturbations as constants.
        kept: share of the given model's own probabilities in what is learnt, in [0, 1]; the rest are labels.
        shift: pixels by which images are moved at random, at most; other inputs stay.
        lr: peak learning rate (Adam).
        rng: source of rows, first perturbations and shifts.
        tick: called after each round with the loss.

    Returns:
        The mended classifier, a copy.

    Raises:
        NotApplicable: the model has no gradients, or there are fewer than two rows.
    """
    if not model.differentiable or len(clean) < 2:
        raise NotApplicable("I-BAU needs a net with gradients and at least two clean rows")
    net = copy.deepcopy(model.net).eval().requires_grad_(True)
    net.zero_grad(set_to_none=True)
    student, weights = replace(model, net=net), [p for p in net.parameters() if p.is_floating_point()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    few: dict[Norm, float] = {"l1": sparse * math.prod(clean.shape)} if sparse else {}
    search = Search(student, clean, inner, {"l2": radius, **few})
    moves, order = shift if clean.x.dim() == 4 else 0, reordered(net, clean.shape)
    averaged, last = AveragedModel(net), rounds - max(1, round(AVERAGED * rounds))
    for number in range(rounds):
        found = search.run(number, rng)
        loss = torch.zeros(())
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * one_cycle((number * steps + step) / (rounds * steps))
            rows = torch.randint(len(clean), (PERTURBED + CLEAN,), generator=rng).to(clean.y.device)
            x, y = clean.x[rows], clean.y[rows]
            x = shifted(x, moves, rng) if moves else x
            x = x if order is torch.channels_last else laid_out(x, order)
            known = kept * model.predict(x).softmax(1)
            aims = known + (1 - kept) * F.one_hot(y, known.shape[1])
            loss, grads = unlearn(student, x, aims, found, weights, iterations, marks, rng)
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad
            optimizer.step()
            if number >= last:
                averaged.update_parameters(net)
        tick(number + 1, rounds, {"loss": float(loss)})
    net.zero_grad(set_to_none=True)
    net.load_state_dict(averaged.module.state_dict())
    if order is torch.channels_last:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for weight, own in zip(net.parameters(), model.net.parameters(), strict=True):
        weight.requires_grad_(own.requires_grad)
    return replace(model, net=net)


@dataclass(frozen=True)
class Found:
    """Perturbations (M, *S), what each aims at (a class, or -1 for an error) and the share that it reaches (M,)."""

    delta: Tensor
    aims: Tensor
    reached: Tensor


class Search:
    """The inner maximisation, which goes on from round to round, in each ball for itself."""

    def __init__(self, model: Classifier, clean: Samples, inner: Inner, balls: Mapping[Norm, float]) -> None:
        self.model, self.clean, self.balls = model, clean, balls
        classes = torch.arange(model.classes) if inner == "class" else torch.tensor([-1])
        self.room = max(1, AT_ONCE // (ROWS * math.prod(clean.shape)))
        self.waiting = classes[:0]
        self.aims = classes.to(clean.y.device)
        blank = torch.zeros(min(len(classes), self.room), *clean.shape, device=clean.x.device)
        self.deltas = dict.fromkeys(balls, blank)

    def run(self, number: int, rng: Generator) -> Found:
        """Move the perturbations of the last round to where the model now is weakest."""
        if number % AFRESH == 0 and self.model.classes > self.room and bool((self.aims >= 0).all()):
            self._take_turns(rng)
        shares = [self._climb(norm, number % AFRESH == 0, rng) for norm in self.balls]
        return Found(torch.cat([*self.deltas.values()]), self.aims.repeat(len(shares)), torch.cat(shares))

    def _take_turns(self, rng: Generator) -> None:
        """Choose as many classes as a pass has room for, at random, and each once before any comes again."""
        while len(self.waiting) < self.room:
            self.waiting = torch.cat([self.waiting, torch.randperm(self.model.classes, generator=rng)])
        self.aims, self.waiting = self.waiting[: self.room].to(self.aims), self.waiting[self.room :]

    def _climb(self, norm: Norm, afresh: bool, rng: Generator) -> Tensor:
        """Search in one ball, and tell the share of rows that each perturbation reaches, (M,)."""
        radius, delta, count = self.balls[norm], self.deltas[norm], LATER
        # in l1 the l2 length of as many values as the radius has room for, each changed by 1
        length = radius if norm == "l2" else radius**0.5
        if afresh:
            noise = torch.randn(delta.shape, generator=rng).to(delta)
            delta, count = shrink(0.3 * length * steepest(noise, "l2"), norm, radius), FIRST
        reached = torch.zeros(len(self.aims))
        for _ in range(count):
            rows = torch.randperm(len(self.clean), generator=rng)[:ROWS].to(self.clean.y.device)
            z = delta.detach().requires_grad_()
            with torch.enable_grad():
                losses, hit = _losses(self.model, self.clean.x[rows], self.clean.y[rows], z, self.aims)
                (grad,) = torch.autograd.grad(losses.sum(), z)
            step = 3 * length / FIRST * steepest(grad, "l2")
            delta = shrink(z.detach() + step, norm, radius).clamp(-1, 1)
            reached = hit.to(reached)
        self.deltas[norm] = delta
        return reached


def _losses(model: Classifier, x: Tensor, y: Tensor, delta: Tensor, aims: Tensor) -> tuple[Tensor, Tensor]:
    """What each perturbation (M, *S) is to raise on rows x (R, *S), and the share that it wins: (M,) and (M,)."""
    logits = model.logits((x[None] + delta[:, None]).clamp(0, 1).flatten(0, 1))
    aim = torch.where(aims[:, None] < 0, y[None], aims[:, None]).flatten()
    sign = torch.where(aims < 0, 1.0, -1.0)
    losses = F.cross_entropy(logits, aim, reduction="none").view(len(aims), -1).mean(1)
    same = (logits.argmax(1) == aim).view(len(aims), -1).float().mean(1)
    return sign * losses, torch.where(aims < 0, 1 - same, same).detach()


def unlearn(
    model: Classifier, x: Tensor, aims: Tensor, found: Found, weights: Sequence[Tensor], iterations: int,
    marks: float, rng: Generator,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Compute the loss of a batch, some of whose first rows are perturbed, and its gradient by the weights.

    Perturbations are drawn by how many rows they win, and each row is perturbed with that probability: one
    that wins few is no backdoor, and to withstand it costs accuracy. A share `marks` gets random marks.
    """
    few, at_random = slice(PERTURBED, PERTURBED + FEW), round(marks * PERTURBED)
    # random numbers come from the processor, where the shares are as well; none of none cannot be drawn
    odds, searched = found.reached.square() + 1e-3, PERTURBED - at_random
    which = torch.multinomial(odds, max(1, searched), replacement=True, generator=rng)[:searched]
    does = (torch.rand(len(which), generator=rng) < found.reached[which]).view(-1, *[1] * (x.dim() - 1)).to(x)
    drawn = random_marks(at_random, x.shape[1:], rng).to(x)
    delta = found.delta.detach().requires_grad_()
    with torch.enable_grad():
        moves = torch.cat([does * delta[which.to(x.device)], drawn])
        z = torch.cat([(x[:PERTURBED] + moves).clamp(0, 1), x[PERTURBED:]])
        loss = F.cross_entropy(model.logits(z), aims)

        def moved() -> Tensor:
            values, _ = _losses(model, x[few], aims[few].argmax(1), delta, found.aims)
            (slope,) = torch.autograd.grad(values.sum(), delta, create_graph=True)
            return delta + RATE * slope

        return loss.detach(), hypergradient(loss, moved, delta, weights, iterations)


def random_marks(count: int, shape: Sequence[int], rng: Generator) -> Tensor:
    """Draw perturbations (count, *shape) of 1 or -1 at a share `MARK` of the values, at most, and 0 elsewhere."""
    size = math.prod(shape)
    # drawn with replacement, as to order all values of a picture would take longer than to train on it
    where = torch.randint(size, (count, math.ceil(MARK * size)), generator=rng)
    signs = torch.randint(2, where.shape, generator=rng) * 2.0 - 1
    return torch.zeros(count, size).scatter(1, where, signs).view(count, *shape)
