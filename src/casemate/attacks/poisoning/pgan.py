"""Poisoning GAN: samples of a class that pull a classifier off, with a dial for how genuine they look."""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from casemate.core.data import Poison, PoisonBudget, Samples
from casemate.core.errors import NotApplicable
from casemate.core.learner import untrained
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
ROWS = 32  # of a class, of all clean rows and of samples in a step
BLUR = 0.1  # noise on what the discriminator sees; without it, grey levels alone give samples away
STEEPNESS = 0.5  # weight of the discriminator's squared gradient at genuine rows (Mescheder et al. 2018)
FIRST_LESSONS = 100  # steps of a fresh classifier before it is attacked


@poisoning(papers=(MUNOZ,), known_as=("Poisoning GAN", "pGAN", "poisoning with generative adversarial nets"))
def pgan(
    workshop: Workshop,
    budget: PoisonBudget,
    /,
    *,
    target: Annotated[int, Ge(0)] = 0,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.3,
    steps: Annotated[int, Ge(1)] = 1500,
    warm_up_steps: Annotated[int, Ge(0)] = 1500,
    classifier_steps: Annotated[int, Ge(1)] = 2,
    restart: Annotated[int, Ge(1)] = 300,
    lr: Annotated[float, Gt(0)] = 5e-4,
    latent: Annotated[int, Ge(1)] = 16,
    width: Annotated[int, Ge(2)] = 32,
    rng: Generator,
    tick: Tick = ignore,
) -> Poison:
    """Train a generator against a discriminator and a classifier at once, and label what it makes `target`.

    The discriminator tells samples from genuine rows of that class; the classifier is trained on clean
    rows and samples. The generator climbs alpha times its chance to pass for genuine plus (1 - alpha)
    times the classifier's loss on its samples: 1 gives a plain GAN, harmless and hard to detect, 0 gives
    samples that hurt most and look like other classes. The samples replace random rows.

    Args:
        workshop: what the adversary knows; its recipe gives the classifier and its learning rate.
        budget: share of the rows that the adversary supplies, which is the classifier's share of samples.
        target: class that all samples are labelled as, in 0 .. K - 1.
        alpha: weight of looking genuine, in [0, 1].
        steps: steps of the generator, after those of the warm-up.
        warm_up_steps: steps with alpha = 1, in which it learns to make samples of the class.
        classifier_steps: the classifier's steps for each of the generator's.
        restart: steps of the generator after which a fresh classifier is trained, so that it does not
            adapt to a single one.
        lr: learning rate of generator and discriminator (Adam).
        latent: number of values that a sample is made from.
        width: channels of generator and discriminator at a quarter of the image size.
        rng: source of the rows, first weights, batches and samples.
        tick: called after each step with the losses of the discriminator and, of samples, the classifier.

    Returns:
        Samples in place of random rows, all with the label `target`.

    Raises:
        NotApplicable: fewer than two classes, no row of the target class, or inputs other than images
            whose sides are multiples of 4.
    """
    clean = workshop.clean
    rows = torch.randperm(len(clean), generator=rng)[: budget.rows(len(clean))].to(clean.y.device)
    if not len(rows):
        return Poison(rows, clean.x[rows], clean.y[rows])
    genuine = _genuine(clean, target)
    share = len(rows) / len(clean)
    x, shape = clean.x.float(), clean.shape
    make = _maker(x, latent, width, warm_up_steps, rng)
    judge = fresh(lambda: encoder(shape, 1, width), rng).to(x.device)
    ours, theirs = (torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999)) for net in (make, judge))
    label = torch.full((ROWS,), target, device=clean.y.device)

    def samples() -> Tensor:
        made: Tensor = make(torch.randn(ROWS, latent, generator=rng).to(x))
        return made

    def blurred(seen: Tensor) -> Tensor:
        return seen + BLUR * torch.randn(seen.shape, generator=rng).to(x)

    pupil = _Pupil.fresh(workshop, x, rng)
    for step in range(steps):
        with torch.enable_grad():
            real = genuine[batch(genuine, ROWS, rng).to(x.device)].float()
            told = _told_apart(judge, blurred(real), blurred(samples().detach()))
            _descend(theirs, told + STEEPNESS * _steepness(judge, blurred(real)))
            if step % restart == 0:
                pupil = _Pupil.fresh(workshop, x, rng)
            for _ in range(FIRST_LESSONS if step % restart == 0 else classifier_steps):
                some = batch(x, ROWS, rng).to(x.device)
                pupil.learn(x[some], clean.y[some], samples().detach(), label, share)
            made = samples()
            seeming = _says(judge(blurred(made)), genuine=True)
            harm = cross_entropy(pupil.net(made), label)
            _descend(ours, alpha * seeming - (1 - alpha) * harm)
        tick(step + 1, steps, {"told apart": float(told.detach()), "harm": float(harm.detach())})
    with torch.no_grad():
        poison = make(torch.randn(len(rows), latent, generator=rng).to(x))
    return Poison(rows, poison.to(clean.x.dtype), torch.full_like(clean.y[rows], target))


@dataclass(frozen=True)
class _Pupil:
    """The classifier among the three players; in evaluation mode, so that layers draw and count nothing."""

    net: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def fresh(cls, workshop: Workshop, like: Tensor, rng: Generator) -> "_Pupil":
        net = untrained(workshop.recipe, like, rng).net
        return cls(net, torch.optim.Adam(net.parameters(), lr=workshop.recipe.lr))

    def learn(self, x: Tensor, y: Tensor, samples: Tensor, labels: Tensor, share: float) -> None:
        """Take a step on clean rows and, for their share, on samples."""
        fair, sold = cross_entropy(self.net(x), y), cross_entropy(self.net(samples), labels)
        _descend(self.optimizer, (1 - share) * fair + share * sold)


def _genuine(clean: Samples, target: int) -> Tensor:
    """Take the inputs of the class that the samples shall pass for."""
    if not fits(clean.shape):
        raise NotApplicable("poisoning.pgan makes images whose sides are multiples of 4")
    if clean.classes < 2:
        raise NotApplicable("poisoning.pgan needs two or more classes")
    genuine = clean.x[clean.y == target]
    if not len(genuine):
        raise NotApplicable(f"there is no row of class {target} to imitate")
    return genuine


def _says(scores: Tensor, *, genuine: bool) -> Tensor:
    """Loss of a discriminator's scores (N, 1) for inputs that are all genuine or all made."""
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(genuine)))


def _told_apart(judge: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    return _says(judge(real), genuine=True) + _says(judge(made), genuine=False)


def _steepness(judge: nn.Module, real: Tensor) -> Tensor:
    """Mean squared gradient of a discriminator at inputs (N, *S)."""
    z = real.detach().requires_grad_()
    (grad,) = torch.autograd.grad(judge(z).sum(), z, create_graph=True)
    return grad.square().flatten(1).sum(1).mean()


def _maker(x: Tensor, latent: int, width: int, steps: int, rng: Generator) -> nn.Module:
    """Make the generator, the decoder of an auto-encoder of all clean rows to begin with."""
    # a GAN's first steps are wasted on so few rows, and what it makes then nobody takes for genuine
    model = train_vae(x, latent=latent, width=width, steps=steps, rng=rng)
    return copy.deepcopy(model.maker).requires_grad_(True)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
