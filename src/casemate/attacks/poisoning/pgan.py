"""Poisoning GAN: samples of a class that are hard to learn, with a dial for how genuine they look."""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.registry import Paper, poisoning
from casemate.core.tick import Tick, ignore
from casemate.core.workshop import Workshop
from casemate.generators.nets import batch, encoder, fits, fresh
from casemate.generators.vae import train_vae

MUNOZ = Paper(
    "Poisoning attacks with generative adversarial nets",
    "Muñoz-González, Pfitzner, Russo, Carnerero-Cano, Lupu",
    2019,
    "https://arxiv.org/abs/1906.07773",
)
LATENT = 16  # values that a sample is made from
WIDTH = 16  # channels of generator and discriminator at a quarter of the image size
ROWS = 32  # genuine rows in a step, as many samples, and twice as many clean rows
BLUR = 0.1  # noise on what the discriminator sees; without it, grey levels alone give samples away
LATE, APART = 100, 10  # last steps whose generators share the samples, and steps between two of them
STEEPNESS = 0.5  # weight of the discriminator's squared gradient at genuine rows (Mescheder et al. 2018)


@poisoning(papers=(MUNOZ,), known_as=("Poisoning GAN", "pGAN", "poisoning with generative adversarial nets"))
def pgan(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.3,
    steps: Annotated[int, Ge(1)] = 400,
    classifier_steps: Annotated[int, Ge(1)] = 20,
    restart: Annotated[int, Ge(1)] = 100,
    imitation_steps: Annotated[int, Ge(1)] = 300,
    warm_up_steps: Annotated[int, Ge(0)] = 50,
    lr: Annotated[float, Gt(0)] = 5e-4,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Train a generator against a discriminator and a classifier at once, and label what it makes `target`.

    The discriminator tells samples from genuine rows of that class; the classifier learns from clean rows
    and samples. The generator climbs alpha times its chance to pass for genuine plus (1 - alpha) times the
    classifier's loss on its samples: 1 gives a plain GAN, harmless and hard to detect, 0 gives samples
    that hurt most and look like other classes. The samples replace random rows.

    A classifier that lags behind is fooled by specks, which the victim will simply learn. One that has
    learnt the samples by now has loss only on those that contradict clean rows, and so will the victim.
    Where it is certain from the start, as of fours among nines, its loss has no slope and nothing happens.

    Args:
        workshop: what the adversary knows; its recipe trains the classifier.
        budget: share of the rows that the adversary supplies, which is the classifier's share of samples.
        target: class that all samples are labelled as, in 0 .. K - 1.
        alpha: weight of looking genuine, in [0, 1].
        steps: steps of the generator, after those of the warm-up.
        classifier_steps: the classifier's steps for each of the generator's.
        restart: steps of the generator after which a fresh classifier is trained by the recipe, as the
            victim will be, on the clean rows with samples in place of some.
        imitation_steps: steps of the auto-encoder of that class whose decoder the generator starts as.
        warm_up_steps: steps with alpha = 1 that follow.
        lr: learning rate of generator and discriminator (Adam).
        rng: source of the rows, first weights, batches and samples.
        tick: called after each step with the losses of the discriminator and, of samples, the classifier.

    Returns:
        Samples in place of random rows, all with the label `target`.

    Raises:
        NotApplicable: fewer than two classes, no row of the target class, or inputs other than images
            whose sides are multiples of 4.
    """
    clean, genuine = workshop.clean, _genuine(workshop.clean, target)
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    labels = torch.full_like(clean.y[rows], target)
    if not len(rows):
        return Poison(rows, clean.x[rows], labels)
    make = _decoder(genuine, imitation_steps, rng)
    judge = fresh(lambda: encoder(clean.shape, 1, WIDTH), rng).to(genuine.device)
    ours, theirs = (torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999)) for net in (make, judge))

    def samples(maker: nn.Module, count: int) -> Tensor:
        made: Tensor = maker(torch.randn(count, LATENT, generator=rng).to(genuine))
        return made

    pupil: _Pupil | None = None
    late: list[nn.Module] = []
    for step in range(-warm_up_steps, steps):
        real = genuine[batch(genuine, ROWS, rng).to(genuine.device)]
        with torch.no_grad():
            lessons = samples(make, classifier_steps * ROWS)
        with torch.enable_grad():
            told = _told_apart(judge, _blurred(real, rng), _blurred(lessons[:ROWS], rng))
            _descend(theirs, told)
            if step >= 0 and step % restart == 0 and alpha < 1:
                with torch.no_grad():
                    today = samples(make, len(rows)).to(clean.x.dtype)
                pupil = _Pupil.fresh(workshop, Poison(rows, today, labels), rng)
            if pupil is not None:
                pupil.learn(clean, lessons, target, rng)
            made = samples(make, ROWS)
            scores = judge(_blurred(made, rng))
            harm = torch.zeros_like(told) if pupil is None else pupil.loss(made, target)
            _descend(ours, _objective(scores, harm, 1.0 if pupil is None else alpha))
        if step >= steps - LATE and (steps - 1 - step) % APART == 0:
            late.append(copy.deepcopy(make))
        tick(
            step + warm_up_steps + 1, steps + warm_up_steps,
            {"told apart": float(told.detach()), "harm": float(harm.detach())},
        )  # fmt: skip
    # the paper takes the last generator; the players circle, and what many of them made together cannot be
    # learnt so easily: on digits it did 15 to 45% more harm than what the last one made
    with torch.no_grad():
        parts = [
            samples(maker, len(part))
            for maker, own in zip(late, rows.tensor_split(len(late)), strict=True)
            for part in own.split(500)
        ]
    return Poison(rows, torch.cat(parts).to(clean.x.dtype), labels)


@dataclass(frozen=True)
class _Pupil:
    """The classifier among the three players; in evaluation mode, so that layers draw and count nothing."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    share: float

    @classmethod
    def fresh(cls, workshop: Workshop, poison: Poison, rng: Generator) -> "_Pupil":
        """Train it as the victim will be."""
        net = workshop.recipe(poison.apply(workshop.clean), rng=rng).net
        optimizer = torch.optim.AdamW(
            net.parameters(), lr=workshop.recipe.lr, weight_decay=workshop.recipe.weight_decay, fused=True
        )
        return cls(net, optimizer, len(poison.rows) / len(workshop.clean))

    def learn(self, clean: Samples, lessons: Tensor, target: int, rng: Generator) -> None:
        """Take a step on clean rows and, for their share, on each `ROWS` samples of the lessons (N, *S)."""
        for made in lessons.split(ROWS):
            some = batch(clean.x, 2 * ROWS, rng).to(clean.y.device)
            fair = cross_entropy(self.net(clean.x[some]), clean.y[some])
            _descend(self.optimizer, (1 - self.share) * fair + self.share * self.loss(made, target))

    def loss(self, made: Tensor, target: int) -> Tensor:
        """Measure the mean cross-entropy of samples (N, *S) with the label `target`, in nats."""
        return cross_entropy(self.net(made), torch.full((len(made),), target, device=made.device))


def _genuine(clean: Samples, target: int) -> Tensor:
    """Take the inputs of the class that the samples shall pass for."""
    if not fits(clean.shape):
        raise NotApplicable("poisoning.pgan makes images whose sides are multiples of 4")
    if clean.classes < 2:
        raise NotApplicable("poisoning.pgan needs two or more classes")
    genuine = clean.x[clean.y == target]
    if not len(genuine):
        raise NotApplicable(f"there is no row of class {target} to imitate")
    return genuine.float()


def _decoder(genuine: Tensor, steps: int, rng: Generator) -> nn.Module:
    """Make the generator; a GAN's first steps are wasted on so few rows, so it starts as a decoder of them."""
    model = train_vae(genuine, latent=LATENT, width=WIDTH, steps=steps, rng=rng)
    return copy.deepcopy(model.maker).requires_grad_(True)


def _blurred(seen: Tensor, rng: Generator) -> Tensor:
    return seen + BLUR * torch.randn(seen.shape, generator=rng).to(seen)


def _told_apart(judge: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Loss of a discriminator on genuine and made inputs (N, *S), and how steep it is at genuine ones.

    The paper has no penalty; without one the discriminator learns so few genuine rows by heart.
    """
    at = real.detach().requires_grad_()
    scores = judge(at)
    (grad,) = torch.autograd.grad(scores.sum(), at, create_graph=True)
    steep = grad.flatten(1).square().sum(1).mean()
    return softplus(-scores).mean() + softplus(judge(made)).mean() + STEEPNESS * steep


def _objective(scores: Tensor, harm: Tensor, alpha: float) -> Tensor:
    """Weigh what the generator descends: being told from genuine inputs, less the classifier's loss on samples.

    Of samples with scores s the paper has log(1 - sigmoid(s)); -log(sigmoid(s)) stands for it as in all GANs.
    """
    return alpha * softplus(-scores).mean() - (1 - alpha) * harm


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
